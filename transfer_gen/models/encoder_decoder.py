"""A Transformer with an encoder and a decoder (Vaswani et al., 2017).

Axes: B batch, T position, S position in what the encoder reads, V vocabulary.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import attention
from transfer_gen.models import caches
from transfer_gen.models import decoder_config
from transfer_gen.models import transformer

Cache = attention.Cache


class EncoderDecoder(nn.Module):
  """Maps encoder inputs and tokens to logits of the next token.

  Attributes:
    config: The model's config, with `vocab_size` set.

  Params: embed, encoder and decoder (a `transformer.Stack` each), head (if not tied,
  or if it has a bias).
  """
  config: config_lib.EncoderDecoder

  def setup(self) -> None:
    """Creates the submodules and params."""
    decoder_config.check(self.config)
    # One table serves both sides and the tied output (Vaswani et al., 2017, section
    # 3.4). An encoder with a vocabulary of its own makes a second one inside its stack.
    self.embed = transformer.table(self.config, self.config.vocab_size)
    self.encoder = transformer.Stack(self.config, "encoder")
    self.decoder = transformer.Stack(self.config, "decoder")
    self.head = transformer.head(self.config)

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
    memory = self._read(encoder_inputs, encoder_counts, train)
    x = self.decoder(inputs, self.embed, train, memory=memory)
    return transformer.logits(self.config, self.embed, self.head, x)

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
      encoder, see `transformer.Stack.read`.
    """
    memory = self._read(encoder_inputs, encoder_counts, train=False)
    return {**caches.empty(self.config, encoder_inputs.shape[0], length),
            caches.MEMORY: memory}

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
    y = transformer.logits(self.config, self.embed, self.head, x)[:, 0]
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
    """Reads the next token of each branch, as `transformer.Decoder.branch`."""
    x, kept = self.decoder.branch(tokens, parents, cache, self.embed)
    y = transformer.logits(self.config, self.embed, self.head, x)
    return y, caches.advanced(kept, tokens, jnp.int32(1))

  # Counts become a mask at this one place, so that training and generation hide the
  # padding of what the encoder reads alike.
  def _read(self, encoder_inputs, counts, train):
    if encoder_inputs is None:
      raise errors.UserError(
          "The model is an EncoderDecoder, and there are no encoder_inputs to read.")
    if counts is None:
      counts = jnp.full(encoder_inputs.shape[:1], encoder_inputs.shape[1], jnp.int32)
    steps = jnp.arange(encoder_inputs.shape[1], dtype=jnp.int32)[None]
    valid = steps < counts[:, None]  # [B, S]
    x = self.encoder(encoder_inputs, self.embed, train, valid=valid)
    return self.decoder.read(x, valid)
