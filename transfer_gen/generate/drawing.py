"""Draws with a model of drawings, point by point.

Axes: B drawings, T points, Z dimensions of the latent, M Gaussians of a mixture, P
states of the pen.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen.models import extended
from transfer_gen.models import sketch

_DRAW, _LATENT = range(2)  # What keys of a drawing are folded with.


# Steps are few and short, and rows that have ended compute along: shapes cannot depend
# on what is drawn.
@functools.lru_cache(maxsize=8)
def program(module: extended.Model, length: int) -> Any:
  """Returns the compiled function that draws; one for each B.

  Args:
    module: A model of drawings.
    length: T, the largest number of points.

  Returns:
    A function from (variables, latents f32[B, Z] or None, keys[B], temperature f32[])
    to offsets f32[B, T, 2] and states of the pen i32[B, T], `END` behind the last
    point. The keys alone decide what is drawn in a row. The temperature is that of Ha
    and Eck (2018, section 3.3): logits are divided by it, and variances multiplied. At
    0 the likeliest is taken.
  """
  def draw(variables, latents, keys, temperature):
    batch = len(keys)
    carry = module.apply(variables, latents, batch, method="begin")

    def step(state, number):
      carry, pen, offset = state
      # Flax returns a pair only if `mutable` is set.
      found: Any = module.apply(
          variables, carry, pen, offset, latents, method="extend")
      carry, logits, mixture = found
      # No drawing of the data is empty.
      logits = jnp.where(
          (number == 0) & (jnp.arange(logits.shape[1]) == sketch.END)[None], -1e9,
          logits)
      drawn, offset = _point(
          logits, mixture, jax.vmap(jax.random.fold_in, (0, None))(keys, number),
          temperature)
      # What has ended stays so, and has no further offsets.
      pen = jnp.where(pen == sketch.END, sketch.END, drawn)
      offset = jnp.where((pen == sketch.END)[:, None], 0.0, offset)
      return (carry, pen, offset), (offset, pen)

    first = carry, jnp.full((batch,), sketch.DOWN), jnp.zeros((batch, 2))
    _, (offsets, pens) = lax.scan(step, first, jnp.arange(length))
    return offsets.swapaxes(0, 1), pens.T

  return jax.jit(draw)


@functools.lru_cache(maxsize=8)
def encoder(module: extended.Model) -> Any:
  """Returns the compiled function from drawings to the means of their latents.

  It takes variables, values f32[B, T, 2] and pen_states i32[B, T], and returns
  f32[B, Z].
  """
  def mean(variables, values, pens):
    found: Any = module.apply(variables, values, pens, method="encoded")
    return found["mean"]
  return jax.jit(mean)


def keys(seed: int, numbers: jax.Array) -> jax.Array:
  """Returns the key of each drawing, from the seed and its number i32[B]."""
  return jax.vmap(lambda number: jax.random.fold_in(
      jax.random.fold_in(jax.random.key(seed), _DRAW), number))(numbers)


def prior(seed: int, numbers: jax.Array, width: int) -> jax.Array:
  """Draws latents f32[B, Z] from N(0, I), from the seed and numbers i32[B]."""
  return sketch.drawn(
      jax.random.fold_in(jax.random.key(seed), _LATENT), numbers, width)


def between(first: jax.Array, last: jax.Array, count: int) -> jax.Array:
  """Returns `count` latents f32[count, Z] from one to another, with both of them.

  They lie on an arc, as spherical interpolation gives it (White, 2016, "Sampling
  Generative Networks"): points of a straight line would be shorter than those that
  the model knows.
  """
  unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
  cosine = jnp.clip(jnp.dot(unit(first), unit(last)), -1.0, 1.0)
  angle = jnp.arccos(cosine)
  shares = jnp.linspace(0.0, 1.0, count)[:, None]
  # Parallel ones have no arc between them.
  straight = (1 - shares) * first[None] + shares * last[None]
  arc = (jnp.sin((1 - shares) * angle) * first[None]
         + jnp.sin(shares * angle) * last[None]) / jnp.maximum(jnp.sin(angle), 1e-6)
  return jnp.where(jnp.sin(angle) < 1e-4, straight, arc)


def _point(
    logits: jax.Array, mixture: Mapping[str, jax.Array], keys: jax.Array,
    temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Draws the state of the pen i32[B], and the offset f32[B, 2]."""
  pen_keys, part_keys, place_keys = jax.vmap(
      functools.partial(jax.random.split, num=3))(keys).swapaxes(0, 1)
  chosen = _choice(part_keys, mixture["mixture_logits"], temperature)
  of = lambda name: jnp.take_along_axis(mixture[name], chosen.reshape(
      -1, *(1,) * (mixture[name].ndim - 1)), axis=1)[:, 0]
  noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(place_keys)
  slant = jnp.tanh(of("mixture_slants"))
  joint = jnp.stack([
      noise[:, 0],
      slant * noise[:, 0] + jnp.sqrt(1 - jnp.square(slant)) * noise[:, 1]], axis=1)
  scales = jnp.exp(of("mixture_log_scales")) * jnp.sqrt(temperature)
  return (_choice(pen_keys, logits, temperature).astype(jnp.int32),
          of("mixture_means") + scales * joint)


def _choice(keys, logits, temperature) -> jax.Array:
  """Draws i32[B] from the softmax of logits f32[B, K] over the temperature."""
  # Gumbel noise times the temperature, and not logits over it: at 0 nothing is divided.
  noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  return (logits + temperature * noise).argmax(-1)
