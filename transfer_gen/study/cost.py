"""What a run costs, counted before it trains."""

from collections.abc import Mapping, Sequence
import functools
import itertools
from typing import Any

import jax
import numpy as np

from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import step_cost

_BATCHES = 32  # Whose lengths stand for those of an epoch.


def of_last_step(
    assembled: assembled_lib.Assembled, batch: Mapping[str, np.ndarray], steps: int
) -> step_cost.Cost:
  """Returns the cost of the last of `steps` steps, if no features were stored."""
  return step_cost.of_step(
      assembled.specs, assembled.optimizer,
      combined.scoring(assembled.model), batch, steps - 1)


def of_run(assembled: assembled_lib.Assembled, steps: int) -> float:
  """Returns the FLOPs of the first steps of a run, as `of_steps` counts them."""
  return of_steps(assembled, [steps])[0]


def of_steps(
    assembled: assembled_lib.Assembled, steps: Sequence[int]) -> list[float]:
  """Returns the FLOPs of the first steps of a run, for several numbers of steps.

  Batches of each length count by their share of the first batches of an epoch, a group
  that starts late counts from its start on, and a teacher counts with what it computes.
  If features are stored, each training row counts once for the beginning of the model.
  """
  # Without dropout, whose masks take no matrix product.
  nll_fn = combined.scoring(assembled.model, assembled.beginning)
  # Batches of the same shapes cost the same, so each shape is traced only once.
  batches = _by_shape(assembled)
  # The cost of a step changes only where a group starts to learn.
  starts = sorted({0, *assembled.optimizer.starts.values(), max(steps)})
  totals = [_storing(assembled)] * len(steps)
  for start, end in itertools.pairwise(s for s in starts if s <= max(steps)):
    for alike in batches:
      cost = step_cost.of_step(
          assembled.specs, assembled.optimizer, nll_fn,
          _stored(assembled, alike[0]), start)
      flops_a_step = (cost.flops + _teaching(assembled.teacher, alike[0])) * len(
          alike) / _BATCHES
      totals = [total + max(min(end, done) - start, 0) * flops_a_step
                for total, done in zip(totals, steps)]
  return totals


def of_validation(assembled: assembled_lib.Assembled) -> float:
  """Returns the FLOPs of scoring the validation split once."""
  nll_fn = combined.scoring(assembled.model)
  params = step_cost.shapes(assembled.specs)
  key = jax.eval_shape(lambda: jax.random.key(0))
  by_shape: dict[tuple, float] = {}
  total = 0.0
  for batch in assembled.data.evaluation_batches(
      "validation", assembled.run.train.rows):
    del batch["documents"]
    shape = tuple((k, v.shape) for k, v in batch.items())
    if shape not in by_shape:
      by_shape[shape] = step_cost.flops(nll_fn, params, batch, key)
    total += by_shape[shape]
  return total


def _by_shape(assembled):
  """The first batches of an epoch, in lists of batches of the same shapes."""
  run = assembled.run
  batches = assembled.data.train_batches(run.train.rows, run.seed)
  found: dict[tuple, list[Any]] = {}
  for batch in itertools.islice(batches, _BATCHES):
    found.setdefault(tuple((k, v.shape) for k, v in batch.items()), []).append(batch)
  return list(found.values())


def _stored(assembled, batch):
  """A batch as a step reads it, with shapes of what is stored, if anything is."""
  if assembled.beginning is None:
    return batch
  return {**batch, **jax.eval_shape(
      _begin(assembled), step_cost.shapes(assembled.specs), dict(batch))}


def _storing(assembled):
  """FLOPs of storing the features, if there are any."""
  if assembled.beginning is None:
    return 0.0
  # One row counts for all of its length, because layers treat the rows of a batch
  # alike.
  begin, params = _begin(assembled), step_cost.shapes(assembled.specs)
  return sum(
      len(next(iter(read.values()))) * step_cost.flops(
          begin, params, {k: v[:1] for k, v in read.items()})
      for read in assembled.data.inputs("train", assembled.beginning.reads))


def _begin(assembled):
  """What is computed to be stored, as a function of params and a batch."""
  return functools.partial(assembled.beginning.outputs, assembled.model)


def _teaching(teacher: Any, batch: Mapping[str, np.ndarray]) -> float:
  """FLOPs of what a teacher computes of a batch, if there is a teacher."""
  if teacher is None:
    return 0.0
  return step_cost.flops(
      teacher.tell, step_cost.shapes(teacher.source.specs), teacher.read(batch))
