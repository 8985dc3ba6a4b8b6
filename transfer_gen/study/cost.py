"""What a training step costs, counted before it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.interpreters import partial_eval
import numpy as np

from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import optim as optim_lib
from transfer_gen.train import step as step_lib

_BATCHES = 32  # Whose lengths stand for those of an epoch.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """The cost of one training step.

  Attributes:
    flops: Multiplications and additions of its matrix products.
    learning: Number of params that it updates.
    slot_bytes: Size of the optimizer state, in bytes.
  """
  flops: float
  learning: int
  slot_bytes: int


def of_step(
    specs: assembled_lib.Specs,
    optimizer: optim_lib.Optimizer,
    nll_fn: step_lib.NllFn,
    batch: Mapping[str, np.ndarray],
    step: int = 0,
) -> Cost:
  """Returns the cost of the step after `step` others; computes nothing.

  Args:
    specs: Specs of the params.
    optimizer: Says what learns at that step.
    nll_fn: The loss, as `train_step` takes it.
    batch: A batch; only its shapes count.
    step: Number of steps before it.
  """
  # Shapes alone are enough, so a model that fits into no memory here can be counted.
  params = _shapes(specs)
  opt_state = jax.eval_shape(
      lambda params: optimizer.extend({}, params, step), params)
  first: Any = jax.ShapeDtypeStruct((), jnp.int32)
  shapes: Any = params
  state = step_lib.TrainState(step=first, params=shapes, opt_state=opt_state)
  counted = flops(
      lambda state, batch, key: step_lib.train_step(
          state, batch, nll_fn=nll_fn, optimizer=optimizer, key=key),
      state, batch, jax.eval_shape(lambda: jax.random.key(0)))
  # Counted after the split that a step makes, so that rows of a table that do not learn
  # are left out.
  learning, _ = jax.eval_shape(optimizer.split, params, opt_state)
  return Cost(
      flops=counted, learning=sum(x.size for x in learning.values()),
      slot_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(opt_state)))


def of_last_step(
    assembled: assembled_lib.Assembled, batch: Mapping[str, np.ndarray], steps: int
) -> Cost:
  """Returns the cost of the last of `steps` steps, if no features were stored."""
  return of_step(
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
      cost = of_step(
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
  params, key = _shapes(assembled.specs), jax.eval_shape(lambda: jax.random.key(0))
  by_shape: dict[tuple, float] = {}
  total = 0.0
  for batch in assembled.data.evaluation_batches(
      "validation", assembled.run.train.rows):
    del batch["documents"]
    shape = tuple((k, v.shape) for k, v in batch.items())
    if shape not in by_shape:
      by_shape[shape] = flops(nll_fn, params, batch, key)
    total += by_shape[shape]
  return total


def flops(function: Callable[..., Any], *given: Any) -> float:
  """Counts multiplications and additions of the matrix products of a function.

  XLA's own count takes the body of a loop once. Here it counts as often as it runs, so
  that recurrent models can be compared. The most expensive branch of a condition
  counts, and a loop of unknown length counts once (a training step has none).

  Args:
    function: A function of arrays that JAX can trace.
    *given: Its arguments: arrays, or their shapes.
  """
  traced = jax.make_jaxpr(function)(*given).jaxpr
  # XLA drops what no result needs, such as the gradients of frozen leaves. The count
  # does so first, or it would charge for them.
  needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
  return _count(needed)


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
      _begin(assembled), _shapes(assembled.specs), dict(batch))}


def _storing(assembled):
  """FLOPs of storing the features, if there are any."""
  if assembled.beginning is None:
    return 0.0
  # One row counts for all of its length, because layers treat the rows of a batch
  # alike.
  begin, params = _begin(assembled), _shapes(assembled.specs)
  return sum(
      len(next(iter(read.values()))) * flops(
          begin, params, {k: v[:1] for k, v in read.items()})
      for read in assembled.data.inputs("train", assembled.beginning.reads))


def _begin(assembled):
  """What is computed to be stored, as a function of params and a batch."""
  return functools.partial(assembled.beginning.outputs, assembled.model)


def _shapes(specs: assembled_lib.Specs) -> dict[str, jax.ShapeDtypeStruct]:
  return {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
          for name, spec in specs.items()}


def _teaching(teacher: Any, batch: Mapping[str, np.ndarray]) -> float:
  """FLOPs of what a teacher computes of a batch, if there is a teacher."""
  if teacher is None:
    return 0.0
  return flops(teacher.tell, _shapes(teacher.source.specs), teacher.read(batch))


# Only matrix products: no model here has convolutions, and what is computed element by
# element is little beside them.
def _count(jaxpr) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      # 2 m n k: a multiplication and an addition for each element of the output and
      # each contracted element of the left operand.
      shape = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
          shape[dim] for dim in contracted)
    inner = [_count(part) for part in _parts(equation.params)]
    if equation.primitive.name == "cond":
      total += max(inner)
    else:
      # `scan` has a length; `while` has none and counts once, as do calls of functions.
      total += equation.params.get("length", 1) * sum(inner)
  return total


def _parts(params: Mapping[str, Any]) -> Iterator[Any]:
  """Programs within an equation."""
  for value in params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      part = getattr(part, "jaxpr", part)  # Closed over constants, or not.
      if hasattr(part, "eqns"):
        yield part
