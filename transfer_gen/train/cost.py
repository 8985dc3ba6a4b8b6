"""What a training step costs, counted before it runs."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.interpreters import partial_eval
import numpy as np

from transfer_gen import tree
from transfer_gen.train import optim as optim_lib
from transfer_gen.train import step as step_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Of one training step.

  Attributes:
    flops: Multiplications and additions of its matrix products.
    learning: How many params it updates.
    slot_bytes: Size of the optimiser's state.
  """
  flops: float
  learning: int
  slot_bytes: int


def of_step(
    specs: Mapping[str, tree.Spec],
    optimizer: optim_lib.Optimizer,
    nll_fn: step_lib.NllFn,
    batch: Mapping[str, np.ndarray],
    step: int = 0,
) -> Cost:
  """The cost of the step after `step` others; computes nothing.

  Args:
    specs: Of the params.
    optimizer: Says what learns at that step.
    nll_fn: As `train_step` takes it.
    batch: Its shapes count, not its values.
    step: How many came before.
  """
  params = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in specs.items()}
  opt_state = jax.eval_shape(
      lambda params: optimizer.extend({}, params, step), params)
  state = step_lib.TrainState(
      step=jax.ShapeDtypeStruct((), jnp.int32), params=params, opt_state=opt_state)
  counted = flops(
      lambda state, batch, key: step_lib.train_step(
          state, batch, nll_fn=nll_fn, optimizer=optimizer, key=key),
      state, batch, jax.eval_shape(lambda: jax.random.key(0)))
  learning, _ = jax.eval_shape(optimizer.split, params, opt_state)
  return Cost(
      flops=counted, learning=sum(x.size for x in learning.values()),
      slot_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(opt_state)))


def flops(function: Callable[..., Any], *given: Any) -> float:
  """Multiplications and additions of the matrix products that a result needs.

  XLA's own count takes the body of a loop once; here it counts as often as it runs,
  so that recurrent models can be told apart too. Of a branch, the dearest counts. A
  loop of unknown length counts once: a training step has none.

  Args:
    function: Of arrays, jittable.
    *given: Arrays, or their shapes.
  """
  traced = jax.make_jaxpr(function)(*given).jaxpr
  needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
  return _count(needed)


def _count(jaxpr) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
          shape[dim] for dim in contracted)
    inner = [_count(part) for part in _parts(equation.params)]
    if equation.primitive.name == "cond":
      total += max(inner)
    else:
      total += equation.params.get("length", 1) * sum(inner)
  return total


def _parts(params: Mapping[str, Any]) -> Iterator[Any]:
  """Programs within an equation."""
  for value in params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      part = getattr(part, "jaxpr", part)  # Closed over constants, or not.
      if hasattr(part, "eqns"):
        yield part
