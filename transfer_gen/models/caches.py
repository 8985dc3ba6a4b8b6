"""What a Transformer keeps between the tokens that it generates.

Axes: B batch, T position, S slot, G key and value heads, K head width.
"""

import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.models import attention
from transfer_gen.models import layers

Cache = attention.Cache

# The entry of a cache that holds what an encoder read. Beams share it.
MEMORY = "memory"


def empty(config: config_lib.Decoder, batch: int, length: int) -> Cache:
  """Returns the cache that `extend` begins with.

  Args:
    config: The model's config.
    batch: B.
    length: S, the number of slots, one for each later input, padding included.

  Returns:
    `position` i32[B], the number of tokens of each row; `used` i32[], the number of
    slots that are written, the same in all rows; `valid` bool[B, S], which slots hold
    a token; and for each layer, by its name, `key` and `value` dtype[B, G, S, K].
  """
  # Batch and heads come first, as in both products of attention, which then read the
  # cache as it lies. It has the computation dtype: bfloat16 halves its memory.
  kv = jnp.zeros(
      (batch, config.kv_heads, length, config.head_size),
      layers.computation_dtype(config.dtype))
  return {
      "position": jnp.zeros((batch,), jnp.int32),
      # A scalar, so that all rows write to the same slots. A shorter prompt leaves
      # slots unused, which `valid` hides, and `position` counts without them.
      "used": jnp.zeros((), jnp.int32),
      "valid": jnp.zeros((batch, length), bool),
      **{names.layer(i): {"key": kv, "value": kv} for i in range(config.num_layers)}}


def check_length(config: config_lib.Decoder, length: int) -> None:
  """Raises if a text is longer than the learned positions.

  Raises:
    errors.UserError: If positions are learned and fewer than `length`.
  """
  # Only a table of positions ends. Without this check `Embed` would clip, and all later
  # positions would read the last row.
  if config.position == "learned" and length > config.max_length:
    raise errors.UserError(
        f"A text of {length} tokens is longer than the learned positions,"
        f" model.max_length={config.max_length}. Shorten the text, or train with a"
        " larger max_length or with sinusoidal, rotary or relative positions.")


# `used` moves by the padded length, because padding takes slots as well, and `position`
# by each row's own tokens. The blocks need the counts from before their tokens, so both
# move only when all layers have run.
def advanced(cache: Cache, inputs: jax.Array, counts: jax.Array) -> Cache:
  """Returns the cache with its counts moved on; arguments as for `Decoder.extend`."""
  return {**cache, "position": cache["position"] + counts,
          "used": cache["used"] + inputs.shape[1]}
