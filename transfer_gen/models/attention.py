"""Multi-head attention.

Axes: B batch, T position, S cached position, D width, H query heads, G key and
value heads, R = H / G, K head width. Einsum letters are these, in lower case.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import fused_attention
from transfer_gen.models import layers
from transfer_gen.models import positions as positions_lib

# A dict and not a class, because each kind of model keeps other entries. Generation
# takes only `caches.MEMORY` out of it, and maps over the arrays of the rest.
Cache = dict[str, Any]


class Attention(nn.Module):
  """Multi-head attention, with grouped queries (Ainslie et al., 2023).

  Self-attention is `__call__`. Cross-attention calls `read` once, and then `look` for
  each part of the text that attends.

  Attributes:
    config: The model's config.
    window: The layer's window, on which its rotary base depends. Which positions are
      seen depends on the mask alone.

  Params: query kernel f32[D, H, K]; key, value f32[D, G, K]; out f32[H, K, D];
  biases of their output dimensions; query_norm, key_norm f32[K] (if normalized).
  """
  config: config_lib.Decoder
  # A field of its own, because a layer does not know its number, and `config.window`
  # asks for it.
  window: int = 0

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    dtype = layers.computation_dtype(config.dtype)

    def projection(name, heads, axis, *reads):
      return layers.Dense(
          (heads, config.head_size), axes=("embed", axis, "kv"),
          reads=("embed", *reads), kernel_init=config.init,
          bias=biased(config, name), dtype=dtype)

    # Scores contract kv of query and key; by convention the query reads it, in the
    # last leaf that can say so.
    reads = () if config.query_norm else ("kv",)
    self.query = projection("query", config.num_heads, "heads", *reads)
    self.key = projection("key", config.kv_heads, "kv_heads")
    self.value = projection("value", config.kv_heads, "kv_heads")
    if config.query_norm:
      self.query_norm = norm(config, axis="kv", reads=("kv",))
      self.key_norm = norm(config, axis="kv")
    self.out = layers.Dense(
        (config.width,), axes=("heads", "kv", "embed"), reads=("heads", "kv"),
        kernel_init=config.init, bias=biased(config, "out"), dtype=dtype)

  # With a slot, all rows write to the same positions of the cache, which one slice can
  # do. A start per row would need a scatter; the mask distinguishes rows of
  # different lengths instead.
  def __call__(
      self, x: jax.Array, positions: jax.Array, mask: jax.Array,
      slot: tuple[Cache, jax.Array] | None, bias: jax.Array | None = None
  ) -> tuple[jax.Array, Cache | None]:
    """Mixes each position with those that the mask shows it.

    Args:
      x: dtype[B, T, D].
      positions: i32[B or 1, T].
      mask: bool[B or 1, T or 1, S], True where T may see S.
      slot: Keys and values dtype[B, G, S, K] of earlier positions, and i32[], the slot
        from which those of x are written. If None, x sees only itself, and S is T.
      bias: See `attend`.

    Returns:
      dtype[B, T, D]; and the keys and values with those of x, or None without a slot.
    """
    query, key, value = self.query(x), self.key(x), self.value(x).swapaxes(1, 2)
    if self.config.query_norm:
      # Norms come before the rotation, as in Gemma 3 and Qwen 3: their scales differ
      # between the two features of a pair, so they do not commute with it.
      query, key = self.query_norm(query), self.key_norm(key)
    if self.config.position == "rotary":
      # Keys are rotated before they are cached, so no later step rotates them again.
      # The scores then depend on the distance of two positions alone.
      turning = positions_lib.turning(self.config, self.window)
      query, key = (positions_lib.rotate(y, positions, *turning) for y in (query, key))
    key = key.swapaxes(1, 2)  # [B, G, T, K], like value.
    kept = None
    if slot is not None:
      kept = {name: lax.dynamic_update_slice(slot[0][name], new, (0, 0, slot[1], 0))
              for name, new in (("key", key), ("value", value))}
      key, value = kept["key"], kept["value"]
    return self._mixed(query, key, value, mask, bias), kept

  # Keys and values of the other text depend on nothing that is generated. They are made
  # once and kept for all tokens of the answer.
  def read(self, encoded: jax.Array) -> Cache:
    """Returns keys and values dtype[B, G, S, K] of another text dtype[B, S, D]."""
    key, value = self.key(encoded), self.value(encoded)
    if self.config.query_norm:
      key = self.key_norm(key)
    return {"key": key.swapaxes(1, 2), "value": value.swapaxes(1, 2)}

  # Neither side is rotated: distances between positions of two texts mean nothing. T5,
  # BART and the first Transformer leave positions out of cross-attention as well.
  def look(self, x: jax.Array, memory: Cache, mask: jax.Array) -> jax.Array:
    """Mixes each position with those of another text, without rotary positions.

    Args:
      x: dtype[B, T, D].
      memory: What `read` returned.
      mask: bool[B or 1, T or 1, S], True where T may see S.
    """
    query = self.query(x)
    if self.config.query_norm:
      query = self.query_norm(query)
    return self._mixed(query, memory["key"], memory["value"], mask, None)

  def _mixed(self, query, key, value, mask, bias):
    config = self.config
    # A single token reads all keys once, and has nothing to gain.
    if config.attention_implementation == "fused" and query.shape[1] > 1:
      return self.out(fused_attention.attend(
          query, key, value, mask, config.score_scale, bias))
    return self.out(attend(
        query, key, value, mask, config.score_scale, config.attention_softcap, bias))


# Query head h reads group h // R, the order that Hugging Face's `repeat_kv` has, and
# keys are not repeated in memory. The scale goes to the query, which has K numbers
# where the scores have S. It acts before the softcap, as in Gemma 2.
#
# Hidden scores get a finite floor: a row with nothing to attend to must not become NaN.
# The floor fits in because the scores are float32; float16 ends at 65504. The weights
# are rounded to the computation dtype, as in Transformers, so that the second product
# runs in it too.
def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, scale: float,
    softcap: float = 0.0, bias: jax.Array | None = None
) -> jax.Array:
  """Softmax attention.

  Args:
    query: dtype[B, T, H, K].
    key: dtype[B, G, S, K], G a divisor of H: H / G queries share a key.
    value: Values, shaped like key.
    mask: bool[B or 1, T or 1, S], True where T may see S.
    scale: Factor on the scores.
    softcap: Bound of the scores, see `capped`; 0 means no bound.
    bias: f32[B or 1, H, T, S], added to the scores, e.g. for relative positions.

  Returns:
    dtype[B, T, H, K]. The softmax is float32.
  """
  batch, length, heads, width = query.shape
  groups = key.shape[1]
  query = query.reshape(batch, length, groups, heads // groups, width)
  query = (query * scale).transpose(0, 2, 3, 1, 4)  # [B, G, R, T, K]
  # XLA's CPU backend transposes all keys where a T of 1 stands in the product.
  terms = ("bgrk,bgsk->bgrs", query[:, :, :, 0]) if length == 1 else (
      "bgrtk,bgsk->bgrts", query)
  scores = _scores(*terms, key)
  scores = scores.reshape(*query.shape[:4], -1)  # [B, G, R, T, S]
  scores = capped(scores, softcap)
  if bias is not None:
    scores += bias.reshape(bias.shape[0], *query.shape[1:4], -1)
  weights = nn.softmax(jnp.where(mask[:, None, None], scores, -1e9))
  mixed = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(value.dtype), value)
  return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


# Scores leave the product as float32, whatever its inputs are: the 8 bits of a bfloat16
# would round differences that the softmax turns into ratios. By itself JAX would then
# multiply their gradient in float32 as well, at a fraction of the speed.
def _scores(terms: str, query: jax.Array, key: jax.Array) -> jax.Array:
  """Returns a product as float32; those of its gradient have the inputs' dtype."""
  if query.dtype == jnp.float32:
    return jnp.einsum(terms, query, key)
  return _wide_product(terms, query, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide_product(terms, query, key):
  return jnp.einsum(terms, query, key, preferred_element_type=jnp.float32)


def _pull_product(terms, saved, cotangent):
  query, key = saved
  _, pull = jax.vjp(functools.partial(jnp.einsum, terms), query, key)
  return pull(cotangent.astype(query.dtype))


_wide_product.defvjp(
    lambda terms, *inputs: (_wide_product(terms, *inputs), inputs), _pull_product)


def capped(x: jax.Array, softcap: float) -> jax.Array:
  """Returns softcap tanh(x / softcap) (Gemma Team, 2024, section 2); x if it is 0."""
  return softcap * jnp.tanh(x / softcap) if softcap else x


def biased(config: config_lib.Decoder, part: str) -> bool:
  """Returns whether a part of the model, one of `PARTS`, has biases."""
  return config.bias and part not in config.unbiased


# Every norm of a Transformer is made here, so that epsilon, offset and bias are the
# same in all of them; `unbiased` has the one name `norm` for all as well.
def norm(
    config: config_lib.Decoder, reads: tuple[str, ...] = (), axis: str = "embed",
    name: str | None = None) -> layers.Norm:
  """Returns a norm of the model; see `layers.Norm` for `reads` and `axis`."""
  return layers.Norm(
      config.norm, epsilon=config.norm_epsilon, bias=biased(config, "norm"),
      offset=config.norm_offset, axis=axis, reads=reads,
      dtype=layers.computation_dtype(config.dtype), name=name)
