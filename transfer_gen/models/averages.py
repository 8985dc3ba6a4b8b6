"""An average over the time that has passed, weighted by a score of each step.

Axes: B batch, T position, D width of an input. All arrays are time-major.
"""

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen.models import layers
from transfer_gen.models import recurrent_layers

Parts = recurrent_layers.Parts
Input = recurrent_layers.Input
_FLOOR = -1e30  # Below any score; finite, so that nothing becomes NaN.


# The peak begins below every score: the factor on the empty sums is then exp of a huge
# negative number, which is 0, and no step is a special case.
def nothing_averaged(inputs: tuple[Input, ...], batch: int) -> dict[str, Any]:
  """Returns the empty state of `Average.extend`: peak, total f32[B]; sums f32[B, D]."""
  return {"peak": jnp.full((batch,), _FLOOR), "total": jnp.zeros((batch,)),
          "sums": {read.part: jnp.zeros((batch, read.size)) for read in inputs}}


class Average(nn.Module):
  """An average over time, weighted by the softmax of one score per step.

  As in DeepMoji (Felbo et al., 2017, section 3.3); the scores read all inputs. The
  arithmetic is float32.

  Attributes:
    inputs: The inputs that it reads and averages.

  Params: for each input a kernel f32[D], `kernel` or `kernel_<part>`.
  """
  inputs: tuple[Input, ...]

  def setup(self) -> None:
    """Creates the submodules and params."""
    self.kernels = {
        read.part: self.param(
            read.named("kernel"),
            layers.boxed(nn.initializers.uniform(), read.axis, reads=(read.axis,)),
            (read.size,)) for read in self.inputs}

  def __call__(self, parts: Parts) -> Parts:
    """dtype[T, B, D] each to their averages, dtype[B, D]."""
    weights = jax.nn.softmax(self._scores(parts), axis=0)  # [T, B]
    return {name: jnp.einsum("tb,tbd->bd", weights, x.astype(jnp.float32))
            .astype(x.dtype) for name, x in parts.items()}

  # An associative scan, because the average at every step is needed in training: it
  # takes a number of rounds logarithmic in T, where a loop takes T. Sums are kept
  # relative to the largest score so far, as in an online softmax, so that no
  # exponential overflows.
  def extend(
      self, parts: Parts, valid: jax.Array, kept: dict[str, Any],
      begins: jax.Array | None = None,
  ) -> tuple[dict[str, Any], Parts]:
    """Averages over all steps up to each.

    Args:
      parts: dtype[T, B, D] each.
      valid: bool[T, B]; steps where it is False have no weight.
      kept: The state of all earlier steps.
      begins: bool[T, B], True at steps whose average leaves out all steps before, as
        do those of the steps behind them. None: at none.

    Returns:
      The state after these steps, and the averages, dtype[T, B, D] each.
    """
    steps = {"peak": jnp.where(valid, self._scores(parts), _FLOOR),
             "total": jnp.ones(valid.shape),
             "sums": {name: x.astype(jnp.float32) for name, x in parts.items()}}
    steps = jax.tree.map(
        lambda old, new: jnp.concatenate([old[None], new]), kept, steps)
    if begins is not None:
      begins = jnp.pad(begins, ((1, 0), (0, 0)))  # What was kept comes first.

    def join(earlier, later):
      (a, begins), (b, b_begins) = earlier, later
      if b_begins is not None:
        # The floor takes all weight from what came before.
        a = a | {"peak": jnp.where(b_begins, _FLOOR, a["peak"])}
        begins |= b_begins
      peak = jnp.maximum(a["peak"], b["peak"])
      a, b = (jax.tree.map(lambda x, side=side: x * _like(
          jnp.exp(side["peak"] - peak), x), side) for side in (a, b))
      return {"peak": peak, "total": a["total"] + b["total"],
              "sums": jax.tree.map(jnp.add, a["sums"], b["sums"])}, begins

    steps, _ = lax.associative_scan(join, (steps, begins))
    total = steps["total"][1:, :, None]
    return jax.tree.map(lambda x: x[-1], steps), {
        name: (x[1:] / total).astype(parts[name].dtype)
        for name, x in steps["sums"].items()}

  def _scores(self, parts):
    return sum(jnp.einsum("tbd,d->tb", parts[name].astype(jnp.float32), kernel)
               for name, kernel in self.kernels.items())


def _like(factor: jax.Array, x: jax.Array) -> jax.Array:
  """Returns a factor per row with axes added, so that it scales all features of x."""
  return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
