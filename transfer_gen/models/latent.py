"""A latent between encoder and decoder: autoencoders, plain and variational.

A variational one (Kingma and Welling, 2014, "Auto-Encoding Variational Bayes") draws
z = m + s e, with m and log s^2 out of what the encoder read, and e from N(0, I). It
draws where the caller gives the random key `latent`, and otherwise takes z = m, as a
plain autoencoder always does.

Axes: B batch, S position in what the encoder reads, Z latent, U hidden width, D width,
P positions that the latent takes.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import outputs
from transfer_gen.models import recurrent_layers

# Of the random key, of the axis, of an entry of caches, and of the part that the first
# layer of a recurrent decoder reads.
NAME = recurrent_layers.LATENT
_BASE = 1000003  # Odd, so that its powers never become 0.


class Recurrent(nn.Module):
  """The latent of a recurrent model (Bowman et al., 2016, section 3).

  "Generating Sentences from a Continuous Space" has one layer. With several, the last
  states of all of them give the latent, which gives the first states of all.

  Attributes:
    config: The model's config.

  Params: mean and log_var (if it draws), with a kernel f32[U, Z] for each state, such
  as `kernel_layer_0_h`, and bias f32[Z]; layer_0_h ..., with kernel f32[Z, U] and bias
  f32[U], which give the first states.
  """
  config: config_lib.Recurrent

  def setup(self) -> None:
    """Creates the submodules and params."""
    config, affine = self.config, recurrent_layers.Affine
    states = cells.STATES[:cells.KINDS[config.cell].states]
    read = tuple(
        recurrent_layers.Input(f"{names.layer(i)}_{state}", "hidden", width)
        for i, width in enumerate(config.widths) for state in states)
    # Without a bridge the encoder's states are as wide as the decoder's.
    self.mean = affine(read, config.latent_width, NAME, config)
    if config.variational:
      self.log_var = affine(read, config.latent_width, NAME, config)
    written = (recurrent_layers.Input("", NAME, config.latent_width),)
    self.states = [
        [affine(written, width, "hidden", config, name=f"{names.layer(i)}_{state}")
         for state in states] for i, width in enumerate(config.widths)]

  def __call__(
      self, carries: list[cells.Carry], tokens: jax.Array, counts: jax.Array
  ) -> jax.Array:
    """Returns the latent, dtype[B, Z].

    Args:
      carries: The encoder's last states, dtype[B, U], of each layer.
      tokens: i32[B, S], what the encoder read.
      counts: i32[B], how many of them are no padding.
    """
    parts = {f"{names.layer(i)}_{state}": x for i, carry in enumerate(carries)
             for state, x in zip(cells.STATES, carry)}
    log_var = self.log_var(parts) if self.config.variational else None
    return _drawn(self, self.mean(parts), log_var, tokens, counts)

  def start(self, latents: jax.Array) -> list[cells.Carry]:
    """Returns the decoder's first states, a carry for each layer, from dtype[B, Z]."""
    return [tuple(state({"": latents}) for state in of_layer)
            for of_layer in self.states]

  def cast(self, latents: jax.Array) -> jax.Array:
    """Returns latents in the dtype of the computation."""
    return latents.astype(layers.computation_dtype(self.config.dtype))


class Pooled(nn.Module):
  """The latent of a Transformer: of the mean of what the encoder returns.

  Attributes:
    config: The model's config.

  Params: mean and log_var (if it draws), kernel f32[D, Z] and bias f32[Z], with the
  encoder's D; out, kernel f32[Z, P, D] and bias f32[P, D], or f32[Z, D] and f32[D] if
  the latent is added to each input.
  """
  config: config_lib.EncoderDecoder

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config

    def dense(features, *axes):
      return layers.Dense(
          features, axes=axes, reads=axes[:1], kernel_init=config.init,
          bias=config.bias, dtype=layers.computation_dtype(config.dtype))

    self.mean = dense((config.latent_width,), "embed", NAME)
    if config.variational:
      self.log_var = dense((config.latent_width,), "embed", NAME)
    # `out` has an axis of its own for its positions, even where there is one.
    self.out = (dense((config.prefix, config.width), NAME, "prefix", "embed")
                if config.prefix else dense((config.width,), NAME, "embed"))

  def __call__(
      self, encoded: jax.Array, tokens: jax.Array, counts: jax.Array) -> jax.Array:
    """Returns the latent, dtype[B, Z].

    Args:
      encoded: dtype[B, S, D], the encoder's output.
      tokens: i32[B, S], what the encoder read.
      counts: i32[B], how many of them are no padding.
    """
    valid = jnp.arange(tokens.shape[1])[None] < counts[:, None]  # [B, S]
    # In float32: a sum of many terms in bfloat16 loses the last ones.
    total = jnp.where(valid[..., None], encoded.astype(jnp.float32), 0.0).sum(1)
    pooled = total / jnp.maximum(counts, 1).astype(jnp.float32)[:, None]
    log_var = self.log_var(pooled) if self.config.variational else None
    return _drawn(self, self.mean(pooled), log_var, tokens, counts)

  def start(self, latents: jax.Array) -> jax.Array:
    """Returns what the decoder sees of dtype[B, Z]: dtype[B, P, D], or [B, 1, D]."""
    seen = self.out(latents)
    return seen if self.config.prefix else seen[:, None]


def fed(config: config_lib.Recurrent) -> tuple[recurrent_layers.Input, ...]:
  """Returns what the first layer of a recurrent decoder reads beside the token."""
  if not config.latent_width:
    return ()
  return (recurrent_layers.Input(NAME, NAME, config.latent_width),)


def noise(
    key: jax.Array, tokens: jax.Array, counts: jax.Array, width: int) -> jax.Array:
  """Draws e, f32[B, Z], from N(0, I).

  What a row gets depends on the key and its text alone, and neither on the rows beside
  it nor on padding. So the loss of a text is the same in any batch, on any devices.

  Args:
    key: The random key.
    tokens: i32[B, S], the texts.
    counts: i32[B], how many tokens of each are no padding.
    width: Z.
  """
  valid = jnp.arange(tokens.shape[1])[None] < counts[:, None]
  # A polynomial modulo 2^32. Texts of equal values are no harm: they share their noise.
  powers = jnp.cumprod(jnp.full(tokens.shape[1:], _BASE, jnp.uint32))
  terms = (tokens.astype(jnp.uint32) + jnp.uint32(1)) * powers[None]
  salts = jnp.where(valid, terms, jnp.uint32(0)).sum(1, dtype=jnp.uint32)
  return jax.vmap(
      lambda salt: jax.random.normal(jax.random.fold_in(key, salt), (width,)))(salts)


def prior(key: jax.Array, count: int, width: int) -> jax.Array:
  """Draws latents f32[N, Z] from the prior N(0, I); each depends on its number alone.

  Args:
    key: The random key.
    count: N.
    width: Z.
  """
  numbers = jnp.arange(count, dtype=jnp.uint32)
  return jax.vmap(lambda number: jax.random.normal(
      jax.random.fold_in(key, number), (width,)))(numbers)


def _drawn(module, mean, log_var, tokens, counts) -> jax.Array:
  """Returns the latent, and gives its mean and log variance to who listens."""
  wide = mean.astype(jnp.float32)
  outputs.give(module, "latent_mean", wide)
  if log_var is None:
    return mean
  log_var = log_var.astype(jnp.float32)
  outputs.give(module, "latent_log_var", log_var)
  if not module.has_rng(NAME):
    return mean
  drawn = noise(module.make_rng(NAME), tokens, counts, mean.shape[-1])
  return (wide + jnp.exp(0.5 * log_var) * drawn).astype(mean.dtype)
