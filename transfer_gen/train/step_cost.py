"""Counts the matrix products of a training step before it runs."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.interpreters import partial_eval

from transfer_gen import tree
from transfer_gen.train import optim as optim_lib
from transfer_gen.train import step as step_lib


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
    specs: Mapping[str, tree.Spec],
    optimizer: optim_lib.Optimizer,
    nll_fn: step_lib.NllFn,
    batch: Mapping[str, Any],
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
  params = shapes(specs)
  opt_state = jax.eval_shape(
      lambda params: optimizer.extend({}, params, step), params)
  first: Any = jax.ShapeDtypeStruct((), jnp.int32)
  abstract: Any = params
  state = step_lib.TrainState(step=first, params=abstract, opt_state=opt_state)
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


def shapes(specs: Mapping[str, tree.Spec]) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of params, enough to trace what they are given to."""
  return {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
          for name, spec in specs.items()}


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
