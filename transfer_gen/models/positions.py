"""Where a token stands: rotary features, sinusoids and buckets of distances.

Axes: B batch, T position, S position that is seen, H heads, K head width, D width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.models import layers


def turning(config: config_lib.Decoder, window: int) -> tuple[np.ndarray, float]:
  """Returns the angular speed of each pair of rotary features, and their scale.

  Args:
    config: The model's config.
    window: The layer's window; 0 means none. Layers with one use `rotary_base_window`.

  Returns:
    f32[R / 2], in radians per token; and a factor on the features that turn.
  """
  size = config.rotary_size
  # As in Gemma 3, whose layers with a window keep a base of their own, unscaled: texts
  # grow longer than those of the first training, and distances in a window do not.
  if window and config.rotary_base_window:
    return _unscaled(config.rotary_base_window, size), 1.0
  scale = layers.choose("rotary_scaling", config.rotary_scaling, SCALINGS)
  turns = scale(config, _unscaled(config.rotary_base, size))
  return turns.astype(np.float32), config.rotary_magnitude


# Features i and i + R / 2 form a pair, as in GPT-NeoX and Transformers' `rotate_half`;
# the paper pairs neighbors instead. The two orders differ by a permutation of the
# features of queries and keys, which leaves scores as they are.
#
# Angles are float32: bfloat16 has 8 significant bits, so positions beyond 256 would
# share angles. Only the sines and cosines are rounded to the dtype of x.
def rotate(
    x: jax.Array, positions: jax.Array, turns: np.ndarray, magnitude: float = 1.0
) -> jax.Array:
  """Rotary positions (Su et al., 2021): turns feature pairs (i, i + R / 2).

  Args:
    x: dtype[B, T, H, K].
    positions: i32[B or 1, T].
    turns: f32[R / 2], see `turning`; the features from R on stay.
    magnitude: Factor on the features that turn.
  """
  half = len(turns)
  angles = positions[..., None, None].astype(jnp.float32) * turns[None, None, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  if magnitude != 1:
    cos, sin = cos * magnitude, sin * magnitude
  cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
  first, second = x[..., :half], x[..., half:2 * half]
  turned = (first * cos - second * sin, second * cos + first * sin)
  turned = jnp.stack(turned, axis=-2).reshape(*x.shape[:-1], 2 * half)
  if 2 * half == x.shape[-1]:
    return turned
  return jnp.concatenate([turned, x[..., 2 * half:]], axis=-1)


# Computed and not stored: no leaf, and so no longest text. Where the width is odd, the
# last sine stands without its cosine.
def sinusoids(positions: jax.Array, width: int, halves: bool = False) -> jax.Array:
  """Fixed positions (Vaswani et al., 2017, section 3.5): i32[B, T] to f32[B, T, D].

  Feature 2 i is sin(p / 10000 ** (2 i / D)), feature 2 i + 1 the cosine of the same;
  with `halves` the sines come first, in this order, and then the cosines.
  """
  waves = np.float32(10000) ** (-np.arange(0, width, 2, dtype=np.float32) / width)
  angles = positions[..., None].astype(jnp.float32) * waves[None, None]
  if halves:
    cosines = jnp.cos(angles[..., :width // 2])
    return jnp.concatenate((jnp.sin(angles), cosines), axis=-1)
  both = jnp.stack((jnp.sin(angles), jnp.cos(angles)), axis=-1)
  return both.reshape(*positions.shape, -1)[..., :width]


# Distances are compared with the starts of buckets, whole numbers that NumPy computes
# once. A logarithm in float32 could put a distance at an exact power into the bucket
# before, on one backend and not on another.
def buckets(
    config: config_lib.Decoder, positions: jax.Array, seen: jax.Array, both_ways: bool
) -> jax.Array:
  """Buckets of distances (Raffel et al., 2020, section 2.1).

  Half of the buckets hold a distance each, the others ever more, up to
  `relative_distance`, by their logarithm.

  Args:
    config: Of the model.
    positions: i32[B or 1, T].
    seen: i32[B or 1, S].
    both_ways: Whether half of the buckets are for what comes later. Else all of that
      is in the first one, with the position itself.

  Returns:
    i32[B or 1, T, S], in [0, relative_buckets).
  """
  ahead = seen[:, None] - positions[..., None]
  count = config.relative_buckets // (1 + both_ways)
  distance = jnp.abs(ahead) if both_ways else jnp.maximum(-ahead, 0)
  starts = jnp.array(_bucket_starts(count, config.relative_distance))
  index = (distance[..., None] >= starts[None, None, None]).sum(-1, dtype=jnp.int32)
  return index + count * (ahead > 0).astype(jnp.int32) if both_ways else index


def _bucket_starts(count: int, distance: int) -> np.ndarray:
  """The shortest distance in each bucket after the first, i32[count - 1]."""
  exact = count // 2
  share = np.arange(1, count - exact) / (count - exact)
  # Exact powers must not be rounded up.
  wide = np.ceil(exact * (distance / exact) ** share - 1e-6)
  return np.concatenate((np.arange(1, exact + 1), wide)).astype(np.int32)


def _unscaled(base: float, size: int) -> np.ndarray:
  return np.float32(base) ** -np.linspace(
      0, 1, size // 2, endpoint=False, dtype=np.float32)


def _linear(config, turns):
  """Scales all features alike (Chen et al., 2023)."""
  return turns / config.rotary_factor


# Transformers states the ramp by wavelengths; `rotary_length` divided by a wavelength
# is the number of turns here.
def _llama3(config, turns):
  """Scales slow features by how often they turn in the first training (Llama, 2024).

  `rotary_ramp` are the numbers of turns between which the scaling fades out.
  """
  low, high = config.rotary_ramp
  often = config.rotary_length * turns.astype(np.float64) / (2 * math.pi)
  kept = np.clip((often - low) / (high - low), 0, 1)
  return turns * (kept + (1 - kept) / config.rotary_factor)


# Features with a low index turn fastest, so the larger number of turns in `rotary_ramp`
# gives the first feature of the ramp, and the smaller one the last.
def _yarn(config, turns):
  """As `_llama3`, with a ramp over the features' index (Peng et al., 2023, 3.2)."""
  size = 2 * len(turns)

  def index(times):  # Of the feature that turns so often in the text trained on.
    return size * math.log(config.rotary_length / (times * 2 * math.pi)) / (
        2 * math.log(config.rotary_base))

  low, high = config.rotary_ramp
  first = max(math.floor(index(high)), 0)
  last = min(math.ceil(index(low)), size - 1)
  last += 0.001 * (first == last)  # As everyone's: no division by zero.
  slowed = np.clip((np.arange(len(turns)) - first) / (last - first), 0, 1)
  return turns * (1 - slowed + slowed / config.rotary_factor)


# Named as Transformers' `rope_type`, where `none` is called `default`.
SCALINGS = {
    "none": lambda config, turns: turns, "linear": _linear, "llama3": _llama3,
    "yarn": _yarn}
