"""A stack of blocks, and the decoder-only Transformer (Vaswani et al., 2017).

Axes: B batch, T position, S cached position, D width, H query heads, G key and
value heads, K head width, F hidden width, V vocabulary.
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen.models import attention
from transfer_gen.models import blocks
from transfer_gen.models import caches
from transfer_gen.models import decoder_config
from transfer_gen.models import layers
from transfer_gen.models import positions as positions_lib

Cache, Output = attention.Cache, blocks.Output


class Decoder(nn.Module):
  """Tokens to logits of the next token.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed, those of a `Stack`, transform (if used), head.
  """
  config: decoder_config.Config

  def setup(self) -> None:
    """Creates the submodules and params."""
    decoder_config.check(self.config)
    self.embed = table(self.config, self.config.vocab_size)
    self.stack = Stack(self.config)
    # The params are `layer_0/...` and not `stack/layer_0/...`: plans and checkpoints
    # contain these names.
    nn.share_scope(self, self.stack)
    self.output = Output(self.config)
    nn.share_scope(self, self.output)

  def __call__(
      self, inputs: jax.Array, train: bool = False, positions: jax.Array | None = None
  ) -> jax.Array:
    """Reads whole rows.

    Args:
      inputs: i32[B, T]. Shorter rows are padded on the right; since no position sees
        later ones, padding changes no logits before it.
      train: Whether dropout acts; it draws from the key `dropout`.
      positions: i32[B, T], for rows that hold several documents: the number of inputs
        before each one that belong to the same document. No document sees another.
        If None, each row is one document.

    Returns:
      Logits dtype[B, T, V].

    Raises:
      errors.UserError: If T is above `max_length` of learned positions.
    """
    x = self.stack(inputs, self.embed, train, positions=positions)
    return self.output(self.embed, x)

  def init_cache(self, batch: int, length: int) -> Cache:
    """Returns an empty cache for `extend`, see `caches.empty`."""
    return caches.empty(self.config, batch, length)

  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, a prompt or a single one.

    Args:
      inputs: i32[B, T], padded on the right.
      counts: i32[B], in [1, T]: the number of each row's inputs that are not padding.
      cache: The cache of what was read before, with at least T unused slots.

    Returns:
      Logits dtype[B, V] after each row's last token, and the cache that follows.
    """
    x, kept = self.stack.extend(inputs, counts, cache, self.embed)
    y = self.output(self.embed, x)[:, 0]
    return y, caches.advanced(kept, inputs, counts)

  def lengthen(self, cache: Cache, slots: int) -> Cache:
    """Returns a cache with more slots, see `caches.lengthened`."""
    return caches.lengthened(cache, slots)

  def fork(self, cache: Cache, branches: int) -> Cache:
    """Returns a cache for `branch`, see `caches.fork`."""
    return caches.fork(cache, branches)

  def branch(
      self, tokens: jax.Array, parents: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next token of each of the texts into which a row branches.

    Args:
      tokens: i32[B, K].
      parents: i32[B, K], the branch whose text each of them continues.
      cache: What `fork` or the last `branch` returned, with K unused slots or more.

    Returns:
      Logits dtype[B, K, V], and the cache that follows.
    """
    x, kept = self.stack.branch(tokens, parents, cache, self.embed)
    y = self.output(self.embed, x)
    return y, caches.advanced(kept, tokens, jnp.int32(1))


class Stack(nn.Module):
  """A stack of blocks, with what comes before the first and after the last.

  Attributes:
    config: The config of the model, or of the side if it has one of its own.
    side: "encoder"; "decoder", which reads an encoder's memory; or "" for a model with
      one side.
    rows: Number of rows of a token table of its own. 0, the default, means none.

  Params: embed (if it has its own), position (if learned), relative (if positions are
  relative), token_type (if there are kinds of tokens), embed_norm (if used), layer_0
  ..., final_norm (with `norm_order="post"` the last block ends with its own norm
  instead).
  """
  config: decoder_config.Config
  side: str = ""
  rows: int = 0

  # All layers share one table of relative positions, as in T5 (Raffel et al., 2020,
  # section 2.1). It stays float32, because it is added to scores that are.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config, encodes = self.config, self.side == "encoder"
    if self.rows:
      self.embed = table(config, self.rows)
    if config.position == "learned":
      self.position = table(
          config, config.max_length + config.position_offset, "position",
          dtype=jnp.float32)
    if config.position == "relative":
      self.relative = layers.Embed(
          config.relative_buckets, config.num_heads, axis="buckets",
          feature_axis="heads")
    if config.token_types:
      self.token_type = table(config, config.token_types, "types", jnp.float32)
    if config.embed_norm:
      self.embed_norm = attention.norm(config)
    self.embed_dropout = nn.Dropout(config.dropout)
    self.blocks = blocks.stack(config, self.side)
    if config.ends_with_norm:
      self.final_norm = attention.norm(
          config, () if encodes else blocks.output_reads(config))

  def __call__(
      self, inputs: jax.Array, embed: layers.Embed, train: bool,
      valid: jax.Array | None = None, memory: Cache | None = None,
      positions: jax.Array | None = None, latent: jax.Array | None = None
  ) -> jax.Array:
    """Reads whole rows.

    Args:
      inputs: i32[B, T].
      embed: Embedding table, used unless this side has its own.
      train: Whether dropout acts.
      valid: bool[B, T], True where inputs are not padding; each position then sees
        later ones as well. By default it sees those before it.
      memory: For a decoder with an encoder: what `read` returned.
      positions: As for `Decoder`.
      latent: What the decoder sees of a latent, see `latent.Pooled.start`.

    Returns:
      dtype[B, T, D].

    Raises:
      errors.UserError: If T is above `max_length` of learned positions.
    """
    caches.check_length(self.config, inputs.shape[1])
    before = 0 if latent is None else self.config.prefix
    # An axis of size 1, not B: masks, rotations and biases are then computed once for
    # all rows.
    steps = jnp.arange(-before, inputs.shape[1], dtype=jnp.int32)[None]  # [1, T]
    if valid is None:
      mask = steps[:, :, None] >= steps[:, None, :]  # [1, T, T]
    else:
      # An encoder sees both ways, so the mask only hides padding. A decoder needs no
      # `valid`: its padding comes last, where no token sees it.
      mask = valid[:, None]  # [B, 1, T]
    if positions is None:
      positions = steps
    else:
      begins = steps - positions  # i32[B, T], where the document of each step begins.
      mask &= begins[:, None, :] == begins[:, :, None]  # [B, T, T]
    # Windows and relative positions are distances, which are the same between steps of
    # the row as between positions in a document, and then the same in all rows.
    masks = _masks(self.config, mask, steps, lambda: steps)
    x = self._embedded(inputs, embed, positions[:, before:], train)
    if latent is not None:
      x = jnp.concatenate([latent, x], axis=1) if before else x + latent
    bias = self._bias(steps, lambda: steps)
    for block in self.blocks:
      x, _ = block(
          x, positions, masks[block.window], None, train, bias, _of(memory, block))
    return self._finished(x[:, before:])

  def begin(self, latent: jax.Array, cache: Cache) -> Cache:
    """Returns a cache in which a latent stands before the tokens, or is added to them.

    Args:
      latent: dtype[B, P, D] or dtype[B, 1, D], see `latent.Pooled.start`.
      cache: An empty cache with P slots more than there are tokens.
    """
    count = self.config.prefix
    if not count:
      return {**cache, caches.LATENT: latent}
    # Below 0, so that tokens have the positions that they have without a latent.
    steps = jnp.arange(count, dtype=jnp.int32)[None]
    slots = jnp.arange(cache["valid"].shape[1], dtype=jnp.int32)[None]
    mask = jnp.broadcast_to(  # [B, P, S]
        slots[:, None] <= steps[:, :, None], (len(latent), count, slots.shape[1]))
    _, kept = self._read_on(
        latent, steps - count, mask, lambda: slots - count, cache)
    valid = jnp.broadcast_to(slots < count, cache["valid"].shape)
    return {**kept, "valid": valid, "used": jnp.int32(count)}

  def read(self, encoded: jax.Array, valid: jax.Array) -> Cache:
    """Returns the memory of a decoder: keys and values of what the encoder read.

    Args:
      encoded: dtype[B, S, D], the encoder's output.
      valid: bool[B, S], True where positions are not padding.

    Returns:
      `valid`; and for each layer, by its name, `key` and `value` dtype[B, G, S, K].
    """
    return {"valid": valid, **{
        block.key: block.cross_attn.read(encoded) for block in self.blocks}}

  # Positions count tokens and not slots, so rows whose prompts were padded continue
  # without a gap. Those of padding may lie behind the table's end, where `Embed` clips;
  # nothing reads their outputs. Slots are in the order of reading, so slot numbers
  # decide what is earlier. The token in a slot has as its position the number of valid
  # slots before it. An invalid slot repeats its neighbor's, and is masked.
  #
  # The output is the widest product, so only one position per row is returned for it.
  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache, embed: layers.Embed
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, as `Decoder.extend`.

    Returns:
      dtype[B, 1, D] at each row's last token, and the cache with the new keys and
      values, whose counts `caches.advanced` still has to move on.
    """
    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None]  # [1, T]
    positions = cache["position"][:, None] + steps  # [B, T]
    valid = lax.dynamic_update_slice(
        cache["valid"], steps < counts[:, None], (0, cache["used"]))  # [B, S]
    slots = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, None]  # [1, 1, S]
    mask = valid[:, None] & (slots <= (cache["used"] + steps)[:, :, None])  # [B, T, S]
    x, kept = self._read_on(
        self._seen(inputs, positions, cache, embed), positions, mask,
        lambda: caches.positions_of(valid, self.config.prefix), cache)
    # The output is the widest product, so it is computed for one position per row.
    x = jnp.take_along_axis(x, (counts - 1)[:, None, None], axis=1)  # [B, 1, D]
    return self._finished(x), {**kept, "valid": valid}

  def branch(
      self, tokens: jax.Array, parents: jax.Array, cache: Cache, embed: layers.Embed
  ) -> tuple[jax.Array, Cache]:
    """Reads the next token of each branch, as `Decoder.branch`.

    Returns:
      dtype[B, K, D], and the cache, whose counts `caches.advanced` moves on.
    """
    cache = caches.branched(cache, parents)
    # All branches of a row are equally long.
    positions = jnp.broadcast_to(cache["position"][:, None], tokens.shape)
    x, kept = self._read_on(
        self._seen(tokens, positions, cache, embed), positions, cache[caches.SEEN],
        lambda: cache[caches.AT], cache)
    return self._finished(x), kept

  def _seen(self, inputs, positions, cache, embed):
    """Returns what the first block reads of inputs that continue a cache."""
    x = self._embedded(inputs, embed, positions, train=False)
    return x + cache[caches.LATENT] if caches.LATENT in cache else x

  def _read_on(self, x, positions, mask, seen, cache):
    """Runs the blocks on inputs that continue a cache.

    Args:
      x: dtype[B, T, D], what the first block reads.
      positions: i32[B or 1, T].
      mask: bool[B, T, S].
      seen: Returns the positions i32[B, S] of what is in the slots.
      cache: The cache.

    Returns:
      dtype[B, T, D] before the last norm, and the cache with new keys and values.
    """
    masks = _masks(self.config, mask, positions, seen)
    bias = self._bias(positions, seen)
    kept = dict(cache)
    for block in self.blocks:
      slot = (cache[block.key], cache["used"])
      x, kept[block.key] = block(
          x, positions, masks[block.window], slot, False, bias,
          _of(cache.get(caches.MEMORY), block))
    return x, kept

  def _embedded(self, inputs, embed, positions, train):
    config = self.config
    embed = self.embed if self.rows else embed
    # Positions are added after this factor, unscaled (Vaswani et al., 2017, section
    # 3.4).
    x = embed(inputs) * config.embed_scale
    if config.token_types:  # Before positions, as in BERT, so that sums are its sums.
      x = layers.added(x, self.token_type(jnp.zeros((1, 1), jnp.int32)))
    if config.position == "learned":
      x = layers.added(x, self.position(
          positions + config.position_offset if config.position_offset else positions))
    elif config.position == "sinusoidal":
      width = config.sinusoid_size
      waves = positions_lib.sinusoids(positions, width, config.sinusoid_halves)
      x += jnp.tile(waves.astype(x.dtype), (1, 1, config.width // width))
    if config.embed_norm:
      # Before dropout, as in BERT.
      x = self.embed_norm(x)
    return self.embed_dropout(x, deterministic=not train)

  # One bias for all layers, computed before the first, as the table is shared.
  def _bias(self, positions, seen):
    """Returns the bias of relative positions, f32[B or 1, H, T, S], or None."""
    if self.config.position != "relative":
      return None
    index = positions_lib.buckets(
        self.config, positions, seen(), both_ways=self.side == "encoder" or isinstance(
            self.config, decoder_config.EncoderConfig))
    return self.relative(index).transpose(0, 3, 1, 2)

  # For the encoder too: its output is normalized once here, and not in each layer that
  # reads it.
  def _finished(self, x):
    return self.final_norm(x) if self.config.ends_with_norm else x


# Positions are initialized as tokens are, since the two are added.
def table(
    config: decoder_config.Config, size: int, axis: str = "vocab",
    dtype: jnp.dtype | None = None) -> layers.Embed:
  """Returns an embedding table of tokens or positions.

  Args:
    config: The model's config.
    size: Number of rows.
    axis: Logical axis of the rows.
    dtype: Dtype of rows. If None, the computation dtype.
  """
  return layers.Embed(
      size, config.width, axis=axis,
      dtype=layers.computation_dtype(config.dtype) if dtype is None else dtype)


def bridge(config: decoder_config.Config) -> layers.Dense:
  """Returns the layer from what an encoder of another width read to this width."""
  return layers.Dense(
      (config.width,), axes=("embed", "embed"), reads=("embed",),
      kernel_init=config.init, dtype=layers.computation_dtype(config.dtype))


def _masks(config, mask, positions, seen):
  """Returns the mask of each window size that layers have; 0 is no window.

  Args:
    config: The model's config.
    mask: bool[B or 1, T, S], the mask without a window.
    positions: i32[B or 1, T].
    seen: Returns i32[B or 1, S], the positions of what may be seen. It is a function,
      so that models without windows do not compute it.
  """
  # One mask per size rather than per layer: layers repeat a few sizes.
  masks = {0: mask}
  for window in sorted({*config.windows} - {0}):
    # Distances are between positions: between slots they would count padding.
    distance = positions[:, :, None] - seen()[:, None]  # [B, T, S]
    masks[window] = mask & (distance < window)
  return masks


def _of(memory: Cache | None, block: blocks.Block) -> tuple[Cache, jax.Array] | None:
  """Returns a layer's part of the memory, and which positions are valid."""
  return None if memory is None else (memory[block.key], memory["valid"])

