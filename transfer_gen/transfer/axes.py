"""Axis maps: how one axis of the source becomes the target's."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

_FRESH = ("mean", "normal")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchTokens:
  """Rows of a vocabulary by token: matched ones are copied, others start fresh.

  Attributes:
    fresh: "normal": drawn around the source's mean row with its spread (one
      standard deviation an entry, over the source's rows); "mean": that mean.
  """
  fresh: str = "normal"

  def __post_init__(self):
    if self.fresh not in _FRESH:
      raise errors.UserError(
          f"MatchTokens: fresh is {self.fresh!r}, must be one of {_FRESH}.")

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Matches the two vocabularies.

    Raises:
      ValueError: If one is not known or has more tokens than the axis has rows.
    """
    for side, vocab, rows in (
        ("source", sizes.source_vocabulary, sizes.source),
        ("target", sizes.target_vocabulary, sizes.target)):
      if vocab is None:
        raise ValueError(f"MatchTokens needs the {side}'s tokens, and none are known")
      if len(vocab.tokens) > rows:
        raise ValueError(
            f"the {side}'s tokenizer has {len(vocab.tokens)} tokens and the axis"
            f" `{sizes.axis}` {rows} rows there: it is not this model's tokenizer")
    index = np.full(sizes.target, -1, np.int32)
    matched = vocabulary.match(sizes.source_vocabulary, sizes.target_vocabulary)
    index[:len(matched)] = matched
    count = int((index >= 0).sum())
    return plan_lib.Binding(
        index=index, fresh=self.fresh,
        note=f"{sizes.axis}: {count} of {sizes.target} matched")


def apply(
    value: jax.Array, index: jax.Array, dim: int, fresh: str, key: jax.Array
) -> jax.Array:
  """Maps one dimension of a leaf.

  Args:
    value: dtype[..., S, ...], S at `dim`.
    index: i32[N], entries of S to copy, -1 where there is none.
    dim: The dimension that changes.
    fresh: What stands where there is none, see `plan.Binding`.
    key: Draws the fresh entries.

  Returns:
    dtype[..., N, ...].
  """
  copied = jnp.take(value, jnp.maximum(index, 0), axis=dim)
  filled = jnp.mean(value, axis=dim, keepdims=True)
  if fresh == "normal":
    spread = jnp.std(value, axis=dim, keepdims=True)
    filled = filled + spread * jax.random.normal(key, copied.shape, value.dtype)
  has_source = jnp.expand_dims(
      index >= 0, [d for d in range(value.ndim) if d != dim])
  return jnp.where(has_source, copied, filled)
