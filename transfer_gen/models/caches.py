"""What a Transformer keeps between the tokens that it generates.

Axes: B batch, T position, S slot, G key and value heads, K head width or branches.
"""

import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.models import attention
from transfer_gen.models import layers

Cache = attention.Cache

# The entry of a cache that holds what an encoder read.
MEMORY = "memory"
# The entry that holds what a latent adds to each input, dtype[B, 1, D].
LATENT = "latent"
# Entries of a cache whose rows have branches, see `fork`.
SEEN, AT = "seen", "at"


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


def fork(cache: Cache, branches: int, prefix: int = 0) -> Cache:
  """Returns a cache whose rows branch into K texts that go on from the same beginning.

  Branches share the slots of their row, and a mask says which branch sees which slot.
  So a branch that goes on from another one, as in each step of a beam search, copies a
  row of that mask, and no keys and values are copied.

  Args:
    cache: A cache that holds prompts and, for each later token, K unused slots.
    branches: K.
    prefix: As for `positions_of`.

  Returns:
    The cache, with `seen` bool[B, K, S], and `at` i32[B, S], the position of the token
    in each slot, also for tokens to come.
  """
  valid, position = cache["valid"], cache["position"]
  slots = jnp.arange(valid.shape[1], dtype=jnp.int32)[None]
  later = position[:, None] + (slots - cache["used"]) // branches
  return {**cache, SEEN: jnp.repeat(valid[:, None], branches, axis=1),
          AT: jnp.where(
              slots < cache["used"], positions_of(valid, prefix), later)}


def lengthened(cache: Cache, slots: int) -> Cache:
  """Returns a cache, which may have branches, with unused slots added up to `slots`."""
  before = cache["valid"].shape[1]

  def longer(x, axis):
    return jnp.pad(x, [(0, slots - before if i == axis else 0) for i in range(x.ndim)])

  found = {**cache, "valid": longer(cache["valid"], 1), **{
      name: {part: longer(x, 2) for part, x in kept.items()}
      for name, kept in cache.items() if names.layer_number(name) is not None}}
  if SEEN in cache:
    branches = cache[SEEN].shape[1]
    later = 1 + jnp.arange(slots - before, dtype=jnp.int32)[None] // branches
    found[SEEN] = longer(cache[SEEN], 2)
    found[AT] = jnp.concatenate([cache[AT], cache[AT][:, -1:] + later], axis=1)
  return found


def branched(cache: Cache, parents: jax.Array) -> Cache:
  """Returns the cache in which each branch goes on from another one.

  Args:
    cache: A cache that `fork` returned.
    parents: i32[B, K], the branch whose text each branch goes on from.

  Returns:
    The cache, in which each branch also sees its own next slot.
  """
  seen = jnp.take_along_axis(cache[SEEN], parents[:, :, None], axis=1)
  own = jnp.broadcast_to(
      jnp.eye(parents.shape[1], dtype=bool)[None], (*parents.shape, parents.shape[1]))
  return {**cache, SEEN: lax.dynamic_update_slice(seen, own, (0, 0, cache["used"]))}


def positions_of(valid: jax.Array, prefix: int = 0) -> jax.Array:
  """Returns the positions of the tokens in slots.

  Args:
    valid: bool[B, S], which slots hold a token.
    prefix: Number of the first slots that stand before the tokens, at positions below
      0, see `transformer.Stack.begin`.

  Returns:
    i32[B, S].
  """
  # The number of valid slots before a slot. An invalid one repeats its neighbour's, and
  # is masked.
  return jnp.cumsum(valid, axis=1, dtype=jnp.int32) - (1 + prefix)
