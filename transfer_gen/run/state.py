"""The state that a training starts from: a fresh one, or that of a checkpoint."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import sys
import time
from typing import Any

import jax
from jax import numpy as jnp
import tqdm

from transfer_gen import checkpoint
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import initial
from transfer_gen.train import moments
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib


def fresh(
    assembled: assembled_lib.Assembled,
    shardings: Mapping[str, jax.sharding.Sharding]) -> step_lib.TrainState:
  """Returns the state at step 0, with moments from a source where rows are marked.

  Args:
    assembled: The run.
    shardings: Where each param lives.
  """
  with _reading(assembled) as progress:
    params = initial.params(assembled, shardings, progress)
  opt_state = moments.restore(
      assembled.rows, assembled.optimizer, assembled.sources,
      assembled.optimizer.extend({}, params, 0), shardings)
  return step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state,
      others=_others(assembled, params))


def restored(
    assembled: assembled_lib.Assembled, checkpoints: checkpoint.Checkpoints, step: int,
    runner: parallel.Runner) -> step_lib.TrainState:
  """Returns the state that a checkpoint holds.

  Args:
    assembled: The run.
    checkpoints: Its checkpoints.
    step: Which one.
    runner: Says where each array lives.
  """
  shapes = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in assembled.specs.items()}
  # The groups of the state before `step`: a group that starts there has no slots yet.
  opt_state = jax.eval_shape(
      lambda params: assembled.optimizer.extend({}, params, max(step - 1, 0)), shapes)
  others = jax.eval_shape(lambda params: _others(assembled, params), shapes)
  # Shapes alone until here: slots that are replaced at once would take memory twice.
  params, opt_state, others = checkpoints.restore(
      step, *(runner.abstract(part, assembled.specs)
              for part in (shapes, opt_state, others)))
  return step_lib.TrainState(
      step=jnp.asarray(step, jnp.int32), params=params, opt_state=opt_state,
      others=others)


def _others(
    assembled: assembled_lib.Assembled, params: Mapping[str, jax.Array]
) -> dict[str, Any]:
  run, ever = assembled.run, {
      name for mine in assembled.optimizer.members.values() for name in mine}
  return step_lib.others(run.model.dtype, run.train.ema, {
      name: value for name, value in params.items() if name in ever})


@contextlib.contextmanager
def _reading(assembled: assembled_lib.Assembled) -> Iterator[Callable[[int], object]]:
  """Shows how many bytes of the sources were read: a bar, or a line in a log."""
  read = {(row.checkpoint, name): row.source_spec.nbytes
          for row in assembled.rows for name in row.sources
          if row.source_spec is not None}
  began, total = time.perf_counter(), sum(read.values())
  with tqdm.tqdm(
      total=total, unit="B", unit_scale=True, desc="reading", leave=False,
      disable=None if read and sys.stderr.isatty() else True) as bar:
    yield bar.update
  seconds = time.perf_counter() - began
  if read:
    print(f"{len(read)} source leaves read, {total / 2**20:.1f} MB in {seconds:.1f} s"
          f" ({total / 2**20 / seconds:.0f} MB/s)", flush=True)
