"""An exponential moving average of the params, kept beside them."""

from collections.abc import Mapping

import jax
from jax import numpy as jnp

NAME = "ema"  # In `step.TrainState.others`.
Params = Mapping[str, jax.Array]


def fresh(params: Params) -> dict[str, jax.Array]:
  """Returns the average before the first step: copies of the params."""
  # Copies, because a step donates both.
  return {name: jnp.copy(value) for name, value in params.items()}


# The sum is written with one difference, so that a leaf that does not learn yet keeps
# its bits. The first steps count more than `decay` says, as in TensorFlow: otherwise
# the average of a short run would be that of its first params.
def after(
    average: Params, params: Params, decay: float, step: jax.Array, counts: jax.Array
) -> dict[str, jax.Array]:
  """Returns the average after a step, a + (1 - d) (p - a).

  Args:
    average: The average before it, a.
    params: The params after it, p, and maybe others.
    decay: In (0, 1); d is at most (1 + step) / (10 + step).
    step: i32[], number of steps before it.
    counts: bool[], whether the step changed anything.
  """
  done = step.astype(jnp.float32)
  rate = 1 - jnp.minimum(decay, (1 + done) / (10 + done))
  rate = jnp.where(counts, rate, 0.0)
  return {name: value + rate.astype(value.dtype) * (params[name] - value)
          for name, value in average.items()}
