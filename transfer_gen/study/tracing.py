"""Whether the models of a study can read the rows of their data, and write texts."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import jax

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.generate import prefill
from transfer_gen.generate import settings
from transfer_gen.run import assemble
from transfer_gen.train import combined

_BATCHES = 32  # Of an epoch; all of validation and test.


def check(runs: Mapping[str, assemble.Assembled]) -> None:
  """Traces the loss of each run on batches of each shape; computes nothing.

  Args:
    runs: Runs by name, assembled.

  Raises:
    errors.UserError: If rows do not fit a model, or its texts cannot be written as
      `Run.decoding` says, with the name of the run.
  """
  seen: set[Any] = set()  # Runs of one model and data share their shapes.
  for name, assembled in runs.items():
    with errors.naming(f"run {name!r}"):
      _check_decoding(assembled.run)
    nll_fn = combined.scoring(assembled.model)
    params = {leaf: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
              for leaf, spec in assembled.specs.items()}
    for batch in _batches(assembled):
      shapes = tuple((part, value.shape) for part, value in sorted(batch.items()))
      if (nll_fn, shapes) not in seen:
        seen.add((nll_fn, shapes))
        with errors.naming(f"run {name!r}"):
          jax.eval_shape(nll_fn, params, batch, jax.random.key(0))


def _check_decoding(run: config_lib.Run) -> None:
  # A drawing is written in points, whose settings need no vocabulary. How long a text
  # may be is chosen when it is written.
  if not isinstance(run.model, (config_lib.Sketch, str)):
    decoding = dataclasses.replace(
        run.decoding, max_tokens=run.decoding.max_tokens or 1)
    prefill.raise_misfits(settings.find_misfits(decoding, run.model.vocab_size))


def _batches(assembled: assemble.Assembled) -> Iterator[dict[str, Any]]:
  run, data = assembled.run, assembled.data
  batches = data.train_batches(run.train.rows, run.seed)
  for _ in range(_BATCHES):
    yield dict(next(batches))
  for split in ("validation", "test"):
    for batch in data.evaluation_batches(split, run.train.rows):
      yield {part: value for part, value in batch.items() if part != "documents"}
