"""Attention as one operation: cuDNN's on GPUs where it can, and XLA's elsewhere.

Axes: B batch, T position, S position that is seen, H query heads, G key and value
heads, K head width.
"""

import jax
from jax import numpy as jnp

_WIDEST = 128  # Heads of 256 need a Hopper or later.
_HALF = ("bfloat16", "float16")


# The mask reaches cuDNN as a bias [B or 1, 1, T, S], whose rows and columns it wants to
# be even. Rows that see nothing are those of padding, which nothing reads.
def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, scale: float,
    bias: jax.Array | None = None) -> jax.Array:
  """As `attention.attend`, by `jax.nn.dot_product_attention`; without a softcap."""
  lengths = query.shape[1], key.shape[2]
  why = why_xla(jax.default_backend(), query.dtype, query.shape[-1], lengths)
  if bias is not None and not why:  # cuDNN wants all in one dtype.
    bias = bias.astype(query.dtype)
  mask = jnp.broadcast_to(mask[:, None], (mask.shape[0], 1, *lengths))
  return jax.nn.dot_product_attention(
      query, key.swapaxes(1, 2), value.swapaxes(1, 2), bias, mask, scale=scale,
      implementation="xla" if why else "cudnn")


def why_xla(
    platform: str, dtype: jnp.dtype | str, width: int, lengths: tuple[int, int]) -> str:
  """Returns why XLA computes an attention, as a part of a sentence; "" if cuDNN does.

  Args:
    platform: Of the devices, such as `gpu`.
    dtype: Of queries, keys and values.
    width: K.
    lengths: T and S.
  """
  if platform != "gpu":
    return f"the devices are of {platform}"
  if jnp.dtype(dtype).name not in _HALF:
    return f"cuDNN takes {' and '.join(_HALF)} alone"
  if width % 8 or width > _WIDEST:
    return f"heads have {width} features, and must have 8, 16, ... up to {_WIDEST}"
  if lengths[0] % 2 or lengths[1] % 2:
    return f"lengths are {lengths[0]} and {lengths[1]}, and must be even"
  return ""
