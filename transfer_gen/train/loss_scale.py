"""Dynamic loss scaling, without which small gradients are 0 in float16.

The loss is multiplied by a factor before it is differentiated, and the gradients are
divided by it (Micikevicius et al., 2018, section 3.2). The factor doubles after 2000
steps in a row with finite gradients. A step whose gradients are not finite changes
neither params nor moments, and halves it. A factor is a power of 2, so that it changes
no digits.
"""

from typing import Any, TypeVar

import jax
from jax import numpy as jnp

NAME = "loss_scale"  # Of a metric, and in `step.TrainState.others`.
# `scale` f32[], the factor; `finite` i32[], number of finite steps since it changed.
State = dict[str, jax.Array]
_Tree = TypeVar("_Tree")

START = 2.0**15  # float16 ends at 65504, below 2**16.
GROWTH = 2000  # Number of finite steps after which the factor doubles.


def needed(dtype: str) -> bool:
  """Whether a model that computes in a dtype needs it.

  bfloat16 has the exponents of float32.
  """
  return dtype == "float16"


def fresh() -> State:
  """Returns the state before the first step."""
  return {"scale": jnp.float32(START), "finite": jnp.int32(0)}


def are_finite(grads: Any) -> jax.Array:
  """Returns bool[], whether all values of all arrays are finite."""
  return jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]).all()


def after(state: State, finite: jax.Array) -> State:
  """Returns the state after a step.

  Args:
    state: The state before it.
    finite: bool[], whether its gradients were finite.
  """
  count = state["finite"] + 1
  grows = finite & (count >= GROWTH)
  factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
  return {"scale": state["scale"] * factor,
          "finite": jnp.where(finite & ~grows, count, 0)}


def chosen(finite: jax.Array, updated: _Tree, before: _Tree) -> _Tree:
  """Returns the first tree if the gradients were finite, and else the second."""
  return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, before)
