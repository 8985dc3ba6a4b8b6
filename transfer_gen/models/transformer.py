"""A decoder-only Transformer (Vaswani et al., 2017), for training and generation.

Axes: B batch, T position, S cached position, D width, H query heads, G key and
value heads, R = H / G, K head width, F hidden width, V vocabulary. Einsum letters
are these, in lower case.
"""

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import layers

# GELU is the tanh approximation, as in GPT-2 (Hendrycks and Gimpel, 2016).
_ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu, "swiglu": nn.silu}
_POSITIONS = {"learned": 0, "sinusoidal": 0, "rotary": 0}
_ORDERS = {"pre": True, "post": False}

Cache = dict[str, Any]


def check(config: config_lib.Decoder) -> None:
  """Finds what no decoder can be built from.

  Raises:
    errors.UserError: One message: which field, its value, what it must be.
  """
  layers.choose("position", config.position, _POSITIONS)
  layers.choose("norm", config.norm, {"layer": 0, "rms": 0})
  layers.choose("norm_order", config.norm_order, _ORDERS)
  layers.choose("activation", config.activation, _ACTIVATIONS)
  layers.initializer(config.init, 0, 1)
  layers.computation_dtype(config.dtype)
  for field in ("vocab_size", "num_layers", "width", "num_heads", "max_length"):
    _require(getattr(config, field) > 0, config, field, "positive")
  for field in ("num_kv_heads", "head_dim", "mlp_width"):
    _require(getattr(config, field) >= 0, config, field, "positive, or 0 for its habit")
  _require(0 <= config.dropout < 1, config, "dropout", "in [0, 1)")
  _require(config.norm_epsilon > 0, config, "norm_epsilon", "positive")
  _require(config.rotary_base > 0, config, "rotary_base", "positive")
  _require(
      config.head_dim or config.width % config.num_heads == 0, config, "num_heads",
      f"a divisor of width, {config.width}; or set model.head_dim")
  _require(
      config.num_heads % (config.num_kv_heads or 1) == 0, config, "num_kv_heads",
      f"a divisor of num_heads, {config.num_heads}")
  _require(
      config.sinusoid_width == 0 or config.width % config.sinusoid_width == 0, config,
      "sinusoid_width", f"a divisor of width, {config.width}, or 0")
  head_dim = config.head_dim or config.width // config.num_heads
  if config.position == "rotary" and head_dim % 2:
    raise errors.UserError(
        f"model.position is 'rotary', which turns pairs of features, and heads have"
        f" {head_dim}, an odd number. Set model.head_dim to an even one.")


class Decoder(nn.Module):
  """Tokens to logits of the next token.

  Attributes:
    config: `vocab_size` must be set.

  Params: embed, position (if learned), layer_0 ..., final_norm (where norms come
  first; else the last block ends with one), head (if not tied).
  """
  config: config_lib.Decoder

  def setup(self):
    config = self.config
    check(config)
    dtype = layers.computation_dtype(config.dtype)
    self.embed = layers.Embed(config.vocab_size, config.width, dtype=dtype)
    if config.position == "learned":
      self.position = layers.Embed(
          config.max_length, config.width, axis="position", dtype=dtype)
    self.embed_dropout = nn.Dropout(config.dropout)
    self.blocks = [
        Block(config, last=i == config.num_layers - 1, name=f"layer_{i}")
        for i in range(config.num_layers)]
    if config.norm_order == "pre":
      self.final_norm = _norm(config, before_output=True)
    if not config.tied:
      self.head = layers.Dense(
          (config.vocab_size,), axes=("embed", "vocab"), reads=("embed",),
          kernel_init=config.init, bias=False, dtype=dtype)

  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """Reads whole rows.

    Args:
      inputs: i32[B, T]. Rows that are shorter are padded on the right: nothing
        looks ahead, so that padding changes no logits before it.
      train: Whether dropout acts; it draws from the key `dropout`.

    Returns:
      Logits dtype[B, T, V].

    Raises:
      errors.UserError: If T is above `max_length` of learned positions.
    """
    check_length(self.config, inputs.shape[1])
    positions = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None]  # [1, T]
    mask = positions[:, :, None] >= positions[:, None, :]  # [1, T, T]
    x = self._embed(inputs, positions, train)
    for block in self.blocks:
      x, _ = block(x, positions, mask, None, train)
    return self._logits(x)

  def init_cache(self, batch: int, length: int) -> Cache:
    """An empty cache for `extend`.

    Args:
      batch: B.
      length: S, slots: as many as all inputs to come, padding included.

    Returns:
      position i32[B], how many tokens each row has; used i32[], how many slots
      are written, the same in all rows; valid bool[B, S], which of them hold a
      token; and a layer, key and value dtype[B, G, S, K].
    """
    config = self.config
    kv = jnp.zeros(
        (batch, config.num_kv_heads or config.num_heads, length,
         config.head_dim or config.width // config.num_heads),
        layers.computation_dtype(config.dtype))
    return {
        "position": jnp.zeros((batch,), jnp.int32),
        "used": jnp.zeros((), jnp.int32),
        "valid": jnp.zeros((batch, length), bool),
        **{f"layer_{i}": {"key": kv, "value": kv} for i in range(config.num_layers)}}

  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, a prompt or a single one.

    Args:
      inputs: i32[B, T], padded on the right.
      counts: i32[B], in [1, T]: how many of a row's inputs are no padding.
      cache: What was read before; it must have T unused slots.

    Returns:
      Logits dtype[B, V] after each row's last token, and the cache that follows.
    """
    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None]  # [1, T]
    positions = cache["position"][:, None] + steps  # [B, T]
    valid = lax.dynamic_update_slice(
        cache["valid"], steps < counts[:, None], (0, cache["used"]))  # [B, S]
    slots = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, None]  # [1, 1, S]
    mask = valid[:, None] & (slots <= (cache["used"] + steps)[:, :, None])  # [B, T, S]

    x = self._embed(inputs, positions, train=False)
    kept = {}
    for block in self.blocks:
      slot = (cache[block.name], cache["used"])
      x, kept[block.name] = block(x, positions, mask, slot, train=False)
    # Only one position a row is asked for, and the output is the widest product.
    x = jnp.take_along_axis(x, (counts - 1)[:, None, None], axis=1)  # [B, 1, D]
    return self._logits(x)[:, 0], {
        "position": cache["position"] + counts,
        "used": cache["used"] + inputs.shape[1],
        "valid": valid, **kept}

  def _embed(self, inputs, positions, train):
    config = self.config
    x = self.embed(inputs) * config.embed_scale
    if config.position == "learned":
      x += self.position(positions)
    elif config.position == "sinusoidal":
      width = config.sinusoid_width or config.width
      table = sinusoids(positions, width).astype(x.dtype)
      x += jnp.tile(table, (1, 1, config.width // width))
    return self.embed_dropout(x, deterministic=not train)

  def _logits(self, x):
    if self.config.norm_order == "pre":
      x = self.final_norm(x)
    logits = self.embed.attend(x) if self.config.tied else self.head(x)
    return logits * self.config.logit_scale


class Block(nn.Module):
  """Attention, then a hidden layer, each beside the residual stream.

  Attributes:
    config: Of the model.
    last: Whether the output comes next.
  """
  config: config_lib.Decoder
  last: bool

  @nn.compact
  def __call__(self, x, positions, mask, slot, train):
    """Args as `Attention`'s. Returns dtype[B, T, D] and the layer's cache."""
    config = self.config
    attn_norm = _norm(config, name="attn_norm")
    mlp_norm = _norm(
        config, before_output=self.last and config.norm_order == "post",
        name="mlp_norm")
    attn, mlp = Attention(config, name="attn"), MLP(config, name="mlp")
    drop = nn.Dropout(config.dropout, deterministic=not train, name="dropout")
    if config.norm_order == "pre":
      mixed, kept = attn(attn_norm(x), positions, mask, slot)
      x += drop(mixed)
      return x + drop(mlp(mlp_norm(x))), kept
    mixed, kept = attn(x, positions, mask, slot)
    x = attn_norm(x + drop(mixed))
    return mlp_norm(x + drop(mlp(x))), kept


class Attention(nn.Module):
  """Multi-head attention, with grouped queries (Ainslie et al., 2023).

  Attributes:
    config: Of the model.

  Params: query kernel f32[D, H, K]; key, value f32[D, G, K]; out f32[H, K, D];
  biases of their output dimensions.
  """
  config: config_lib.Decoder

  @nn.compact
  def __call__(
      self, x: jax.Array, positions: jax.Array, mask: jax.Array,
      slot: tuple[Cache, jax.Array] | None
  ) -> tuple[jax.Array, Cache | None]:
    """Mixes each position with those that the mask shows it.

    Args:
      x: dtype[B, T, D].
      positions: i32[B or 1, T].
      mask: bool[B or 1, T, S], True where T may see S.
      slot: Key and value dtype[B, G, S, K] read before, and i32[], where those of x
        are written; None: there are none, and S is T.

    Returns:
      dtype[B, T, D], and key and value with those of x.
    """
    config = self.config
    head_dim = config.head_dim or config.width // config.num_heads
    kv_heads = config.num_kv_heads or config.num_heads

    def project(name, heads, axis, *reads):
      return layers.Dense(
          (heads, head_dim), axes=("embed", axis, "kv"), reads=("embed", *reads),
          kernel_init=config.init, bias=config.bias, dtype=x.dtype, name=name)(x)

    # Scores contract kv of query and key; by convention the query reads it.
    query = project("query", config.num_heads, "heads", "kv")
    key = project("key", kv_heads, "kv_heads")
    value = project("value", kv_heads, "kv_heads").swapaxes(1, 2)
    if config.position == "rotary":
      query = rotate(query, positions, config.rotary_base)
      key = rotate(key, positions, config.rotary_base)
    key = key.swapaxes(1, 2)  # [B, G, T, K], like value.
    kept = None
    if slot is not None:
      kept = {name: lax.dynamic_update_slice(slot[0][name], new, (0, 0, slot[1], 0))
              for name, new in (("key", key), ("value", value))}
      key, value = kept["key"], kept["value"]
    mixed = attend(
        query, key, value, mask, config.attention_scale or head_dim ** -0.5)
    return layers.Dense(
        (config.width,), axes=("heads", "kv", "embed"), reads=("heads", "kv"),
        kernel_init=config.init, bias=config.bias, dtype=x.dtype, name="out")(mixed), kept


class MLP(nn.Module):
  """The hidden layer: down(act(up(x))), or down(silu(gate(x)) * up(x)) for SwiGLU
  (Shazeer, 2020).

  Attributes:
    config: Of the model.

  Params: up, gate kernel f32[D, F], bias f32[F]; down kernel f32[F, D], bias f32[D].
  """
  config: config_lib.Decoder

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[B, T, D] to the same."""
    config = self.config
    width = config.mlp_width or 4 * config.width

    def dense(name, features, source, target):
      return layers.Dense(
          (features,), axes=(source, target), reads=(source,),
          kernel_init=config.init, bias=config.bias, dtype=x.dtype, name=name)

    act = _ACTIVATIONS[config.activation]
    hidden = dense("up", width, "embed", "mlp")(x)
    if config.activation == "swiglu":
      hidden *= act(dense("gate", width, "embed", "mlp")(x))
    else:
      hidden = act(hidden)
    return dense("down", config.width, "mlp", "embed")(hidden)


def check_length(config: config_lib.Decoder, length: int) -> None:
  """Finds text that the position table is too short for.

  Raises:
    errors.UserError: If positions are learned and there are fewer than `length`.
  """
  if config.position == "learned" and length > config.max_length:
    raise errors.UserError(
        f"A text of {length} tokens is longer than the learned positions,"
        f" model.max_length={config.max_length}. Shorten the text, or train with a"
        " larger max_length or with sinusoidal or rotary positions.")


def constants(config: config_lib.Decoder) -> dict[str, Any]:
  """What a decoder computes beside its params and their sizes, by name."""
  head_dim = config.head_dim or config.width // config.num_heads
  found = {
      "attention_scale": config.attention_scale or head_dim ** -0.5,
      "rotary": config.position == "rotary"}
  if config.position == "sinusoidal":
    found["sinusoid_width"] = config.sinusoid_width or config.width
  return found | {name: getattr(config, name) for name in (
      "position", "norm", "norm_order", "norm_epsilon", "activation", "embed_scale",
      "logit_scale", "rotary_base")}


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, scale: float
) -> jax.Array:
  """Softmax attention.

  Args:
    query: dtype[B, T, H, K].
    key: dtype[B, G, S, K], G a divisor of H: H / G queries share a key.
    value: Like key.
    mask: bool[B or 1, T, S], True where T may see S.
    scale: Factor on the scores.

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
  scores = jnp.einsum(*terms, key, preferred_element_type=jnp.float32)
  scores = scores.reshape(*query.shape[:4], -1)  # [B, G, R, T, S]
  # A finite floor: a row with nothing to attend to must not become NaN.
  weights = nn.softmax(jnp.where(mask[:, None, None], scores, -1e9))
  mixed = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(value.dtype), value)
  return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def rotate(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
  """Rotary positions (Su et al., 2021): turns feature pairs (i, i + K / 2).

  Args:
    x: dtype[B, T, H, K].
    positions: i32[B or 1, T].
    base: Wavelengths are 2 pi base ** (2 i / K).
  """
  half = x.shape[-1] // 2
  waves = np.float32(base) ** -np.linspace(0, 1, half, endpoint=False, dtype=np.float32)
  angles = positions[..., None, None].astype(jnp.float32) * waves[None, None, None]
  cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
  first, second = x[..., :half], x[..., half:]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.stack(turned, axis=-2).reshape(x.shape)


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """Fixed positions (Vaswani et al., 2017, section 3.5): i32[B, T] to f32[B, T, D].

  Feature 2 i is sin(p / 10000 ** (2 i / D)), feature 2 i + 1 the cosine of the same.
  """
  waves = np.float32(10000) ** (-np.arange(0, width, 2, dtype=np.float32) / width)
  angles = positions[..., None].astype(jnp.float32) * waves[None, None]
  both = jnp.stack((jnp.sin(angles), jnp.cos(angles)), axis=-1)
  return both.reshape(*positions.shape, -1)[..., :width]


def _norm(config, before_output=False, name=None):
  return layers.Norm(
      config.norm, epsilon=config.norm_epsilon, bias=config.bias,
      reads=("embed",) if before_output and config.tied else (),
      dtype=layers.computation_dtype(config.dtype), name=name)


def _require(holds, config, field, what):
  if not holds:
    raise errors.UserError(
        f"model.{field} is {getattr(config, field)}, must be {what}.")
