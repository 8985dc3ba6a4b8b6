"""Transformers with an encoder: with a decoder (Vaswani et al., 2017), or alone.

Axes: B batch, T position, S position in what the encoder reads, D width, V vocabulary.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import errors
from transfer_gen.models import caches
from transfer_gen.models import decoder_config
from transfer_gen.models import latent as latent_lib
from transfer_gen.models import transformer

Cache = transformer.Cache
_TOP = "top"  # What `encoded` returns.


class EncoderDecoder(nn.Module):
  """Maps encoder inputs and tokens to logits of the next token.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed, encoder (unless the decoder's blocks serve it) and decoder (a
  `transformer.Stack` each), latent (if there is one, in place of cross-attention) or
  bridge (if their widths differ), those of a `blocks.Output`.
  """
  config: decoder_config.PairConfig

  def setup(self) -> None:
    """Creates the submodules and params."""
    config, own = self.config, decoder_config.side_of(self.config, "encoder")
    decoder_config.check(config)
    # One table serves both sides and the tied output (Vaswani et al., 2017, section
    # 3.4). An encoder with a vocabulary of its own makes a second one inside its stack.
    self.embed = transformer.table(config, config.vocab_size)
    self.decoder = transformer.Stack(config, "decoder")
    if not config.shared:
      self.encoder = transformer.Stack(own, "encoder", config.encoder_vocab_size)
    if config.latent_width:
      self.latent = latent_lib.Pooled(config)
    elif own.width != config.width:
      self.bridge = transformer.bridge(config)
    self.output = transformer.Output(config)
    nn.share_scope(self, self.output)

  def __call__(
      self, inputs: jax.Array, train: bool = False,
      encoder_inputs: jax.Array | None = None,
      encoder_counts: jax.Array | None = None,
  ) -> jax.Array:
    """Reads whole rows.

    Args:
      inputs: i32[B, T]. Shorter rows are padded on the right; since no position sees
        later ones, padding changes no logits before it.
      train: Whether dropout acts; it draws from the key `dropout`.
      encoder_inputs: i32[B, S], padded on the right.
      encoder_counts: i32[B], in [0, S]: the number of each row's encoder inputs that
        are not padding. If None, S.

    Returns:
      Logits dtype[B, T, V].

    Raises:
      errors.UserError: If there are no encoder_inputs, or S or T is above
        `max_length` of learned positions.
    """
    if self.config.latent_width:
      latents = self.posterior(encoder_inputs, encoder_counts, train)
      x = self.decoder(inputs, self.embed, train, latent=self.latent.start(latents))
    else:
      memory = self._read(encoder_inputs, encoder_counts, train)
      x = self.decoder(inputs, self.embed, train, memory=memory)
    return self.output(self.embed, x)

  # The encoder runs once for each answer. What it read becomes the keys and values of
  # each decoder layer here, so that `extend` multiplies no encoder output again.
  def encode(
      self, encoder_inputs: jax.Array, encoder_counts: jax.Array, length: int) -> Cache:
    """Reads encoder inputs and returns the cache with which an answer begins.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      encoder_counts: i32[B], in [0, S]: the number of each row's encoder inputs that
        are not padding.
      length: Number of slots, one for each later input, padding included.

    Returns:
      The entries of `caches.empty`; and `memory`, what the decoder's layers read of the
      encoder, see `transformer.Stack.read`. With a latent, as `begin`.
    """
    if self.config.latent_width:
      return self.begin(self.posterior(encoder_inputs, encoder_counts), length)
    memory = self._read(encoder_inputs, encoder_counts, train=False)
    return {**caches.empty(self.config, encoder_inputs.shape[0], length),
            caches.MEMORY: memory}

  def encoded(
      self, encoder_inputs: jax.Array, encoder_counts: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns what the encoder gives the rest of the model, see `beginnings.Encoder`.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      encoder_counts: i32[B], as for `encode`.
      train: Whether dropout acts.

    Returns:
      `top` dtype[B, S, D], the output of the encoder's stack.
    """
    side = self.decoder if self.config.shared else self.encoder
    valid = _valid(encoder_inputs, encoder_counts)
    return {_TOP: side(encoder_inputs, self.embed, train, valid=valid)}

  def posterior(
      self, encoder_inputs: jax.Array | None, encoder_counts: jax.Array | None,
      train: bool = False) -> jax.Array:
    """Returns the latent of what the encoder reads, dtype[B, Z], see `latent`."""
    tokens, counts = _counted(encoder_inputs, encoder_counts)
    x = self.encoded(tokens, counts, train)[_TOP]
    return self.latent(x, tokens, counts)

  def begin(self, latents: jax.Array, length: int) -> Cache:
    """Returns the cache with which the text of each latent begins.

    Args:
      latents: float[B, Z].
      length: As for `encode`.

    Returns:
      The entries of `caches.empty`, see `transformer.Stack.begin`.
    """
    cache = caches.empty(self.config, len(latents), length + self.config.prefix)
    return self.decoder.begin(self.latent.start(latents), cache)

  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, as `transformer.Decoder.extend`.

    Args:
      inputs: i32[B, T], padded on the right.
      counts: i32[B], in [1, T]: the number of each row's inputs that are not padding.
      cache: What `encode` or the last `extend` returned, with at least T unused
        slots.

    Returns:
      Logits dtype[B, V] after each row's last token, and the cache that follows.
    """
    x, kept = self.decoder.extend(inputs, counts, cache, self.embed)
    y = self.output(self.embed, x)[:, 0]
    return y, caches.advanced(kept, inputs, counts)

  def lengthen(self, cache: Cache, slots: int) -> Cache:
    """Returns a cache with more slots, see `caches.lengthened`."""
    return caches.lengthened(cache, slots + self.config.prefix)

  def fork(self, cache: Cache, branches: int) -> Cache:
    """Returns a cache for `branch`, see `caches.fork`."""
    return caches.fork(cache, branches, self.config.prefix)

  def branch(
      self, tokens: jax.Array, parents: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next token of each branch, as `transformer.Decoder.branch`."""
    x, kept = self.decoder.branch(tokens, parents, cache, self.embed)
    y = self.output(self.embed, x)
    return y, caches.advanced(kept, tokens, jnp.int32(1))

  def _read(self, encoder_inputs, counts, train):
    """Returns the memory of the decoder."""
    tokens, counts = _counted(encoder_inputs, counts)
    x = self.encoded(tokens, counts, train)[_TOP]
    x = self.bridge(x) if x.shape[-1] != self.config.width else x
    return self.decoder.read(x, _valid(tokens, counts))


def _counted(encoder_inputs, counts):
  """Returns what an encoder reads, with counts where there were none."""
  if encoder_inputs is None:
    raise errors.UserError(
        "The model is an EncoderDecoder, and there are no encoder_inputs to read.")
  if counts is None:
    counts = jnp.full(encoder_inputs.shape[:1], encoder_inputs.shape[1], jnp.int32)
  return encoder_inputs, counts


# Counts become a mask at this one place, so that training and generation hide the
# padding of what the encoder reads alike.
def _valid(encoder_inputs, counts):
  """Returns bool[B, S], which of i32[B, S] are no padding."""
  steps = jnp.arange(encoder_inputs.shape[1], dtype=jnp.int32)[None]
  return steps < counts[:, None]


class Encoder(nn.Module):
  """Tokens to logits of the token at each position.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed, those of a `transformer.Stack` and of a `blocks.Output`.
  """
  config: decoder_config.EncoderConfig

  def setup(self) -> None:
    """Creates the submodules and params."""
    decoder_config.check(self.config)
    self.embed = transformer.table(self.config, self.config.vocab_size)
    self.stack = transformer.Stack(self.config)
    nn.share_scope(self, self.stack)
    if self.config.head:
      self.output = transformer.Output(self.config)
      nn.share_scope(self, self.output)

  def __call__(
      self, inputs: jax.Array, train: bool = False, positions: jax.Array | None = None,
      counts: jax.Array | None = None) -> jax.Array:
    """Reads whole rows.

    Args:
      inputs: i32[B, T], padded on the right. Where a token is to be found, there is the
        tokenizer's mask.
      train: Whether dropout acts; it draws from the key `dropout`.
      positions: i32[B, T], for rows that hold several documents, as for a
        `transformer.Decoder`.
      counts: i32[B], in [0, T]: the number of each row's inputs that are not padding.
        If None, T.

    Returns:
      Logits dtype[B, T, V]; without a head, what the last layer returns, dtype[B, T,
      D].

    Raises:
      errors.UserError: If T is above `max_length` of learned positions.
    """
    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None]
    valid = (steps < counts[:, None] if counts is not None
             else jnp.ones(inputs.shape, bool))  # [B, T]
    x = self.stack(inputs, self.embed, train, valid=valid, positions=positions)
    return self.output(self.embed, x) if self.config.head else x
