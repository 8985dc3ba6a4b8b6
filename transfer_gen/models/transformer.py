"""A decoder-only Transformer (Vaswani et al., 2017), for training and generation.

Axes: B batch, T position, S cached position, D width, H query heads, G key and
value heads, K head width, F hidden width, V vocabulary.
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import attention
from transfer_gen.models import decoder_config
from transfer_gen.models import layers
from transfer_gen.models import positions as positions_lib

Cache = attention.Cache


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
    decoder_config.check(config)
    dtype = layers.computation_dtype(config.dtype)
    self.embed = layers.Embed(config.vocab_size, config.width, dtype=dtype)
    if config.position == "learned":
      self.position = layers.Embed(
          config.max_length + config.position_offset, config.width, axis="position",
          dtype=dtype)
    self.embed_dropout = nn.Dropout(config.dropout)
    self.blocks = [
        Block(config, last=i == config.num_layers - 1,
              window=decoder_config.window(config, i), name=f"layer_{i}")
        for i in range(config.num_layers)]
    if _has_final_norm(config):
      self.final_norm = attention.norm(config, _output_reads(config))
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
    masks = _masks(self.config, mask, positions, lambda: positions)
    x = self._embed(inputs, positions, train)
    for block in self.blocks:
      x, _ = block(x, positions, masks[block.window], None, train)
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
    masks = _masks(self.config, mask, positions,
                   lambda: jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1)

    x = self._embed(inputs, positions, train=False)
    kept = {}
    for block in self.blocks:
      slot = (cache[block.name], cache["used"])
      x, kept[block.name] = block(
          x, positions, masks[block.window], slot, train=False)
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
      x += self.position(
          positions + config.position_offset if config.position_offset else positions)
    elif config.position == "sinusoidal":
      width = config.sinusoid_width or config.width
      table = positions_lib.sinusoids(positions, width).astype(x.dtype)
      x += jnp.tile(table, (1, 1, config.width // width))
    return self.embed_dropout(x, deterministic=not train)

  def _logits(self, x):
    if _has_final_norm(self.config):
      x = self.final_norm(x)
    logits = self.embed.attend(x) if self.config.tied else self.head(x)
    return attention.capped(logits * self.config.logit_scale, self.config.logit_softcap)


class Block(nn.Module):
  """Attention and a hidden layer, each beside the residual stream.

  Attributes:
    config: Of the model.
    last: Whether the output comes next.
    window: How many tokens the attention sees, for `attention.Attention`.

  Params: attn_norm, attn, mlp_norm, mlp; attn_post_norm, mlp_post_norm where norms
  stand on both sides.
  """
  config: config_lib.Decoder
  last: bool
  window: int = 0

  @nn.compact
  def __call__(self, x, positions, mask, slot, train):
    """Args as `Attention`'s. Returns dtype[B, T, D] and the layer's cache."""
    config = self.config
    norm = lambda name, reads=(): attention.norm(config, reads, name=name)
    attn_norm = norm("attn_norm")
    ends = self.last and config.norm_order == "post"
    mlp_norm = None if config.block == "parallel_one_norm" else norm(
        "mlp_norm", _output_reads(config) if ends else ())
    attn = attention.Attention(config, self.window, name="attn")
    mlp = MLP(config, name="mlp")
    drop = nn.Dropout(config.dropout, deterministic=not train, name="dropout")
    if config.norm_order == "post":
      mixed, kept = attn(x, positions, mask, slot)
      x = attn_norm(x + drop(mixed))
      return mlp_norm(x + drop(mlp(x))), kept
    seen = attn_norm(x)
    mixed, kept = attn(seen, positions, mask, slot)
    if config.block != "serial":  # Wang and Komatsuzaki, 2021.
      return x + drop(mixed) + drop(mlp(mlp_norm(x) if mlp_norm else seen)), kept
    if config.norm_order == "pre":
      x += drop(mixed)
      return x + drop(mlp(mlp_norm(x))), kept
    x += drop(norm("attn_post_norm")(mixed))
    return x + drop(norm("mlp_post_norm")(mlp(mlp_norm(x)))), kept


class MLP(nn.Module):
  """The hidden layer: down(act(up(x))), or down(act(gate(x)) * up(x)).

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
          kernel_init=config.init, bias=attention.biased(config, name), dtype=x.dtype,
          name=name)

    hidden = dense("up", width, "embed", "mlp")(x)
    if config.activation in decoder_config.GATES:
      gate = dense("gate", width, "embed", "mlp")(x)
      hidden *= decoder_config.GATES[config.activation](gate)
    else:
      hidden = decoder_config.ACTIVATIONS[config.activation](hidden)
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


def _masks(config, mask, positions, seen):
  """What each layer sees, by its window.

  Args:
    mask: bool[B or 1, T, S], without one.
    positions: i32[B or 1, T].
    seen: Gives i32[B or 1, S], the positions of what may be seen.
  """
  masks = {0: mask}
  for window in sorted({*config.windows} - {0}):
    distance = positions[:, :, None] - seen()[:, None]  # [B, T, S]
    masks[window] = mask & (distance < window)
  return masks


def _has_final_norm(config):
  return config.final_norm and config.norm_order != "post"


def _output_reads(config):
  return ("embed",) if config.tied else ()
