"""Continues prompts: greedily, or drawn with temperature, top-k and top-p.

Axes: B rows, P prompt, padded; N new tokens, rounded up; V vocabulary. The whole
of it, prompt and loop, is one compiled program for each (B, P, N).
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any
import zlib

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import registry

_SHORTEST = 16  # Prompts and continuations are padded to a power of 2 from here on.


def generate(
    module: nn.Module,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    eos: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    key: jax.Array | None = None,
) -> list[list[int]]:
  """Continues each prompt.

  Compiled once for a number of prompts and powers of two that hold the longest
  prompt and `num_tokens`; no other argument's value compiles anything.

  Args:
    module: A model of `registry.build`.
    params: Its params, flat by name or nested.
    prompts: Tokens, at least one each.
    num_tokens: Most tokens that are added.
    eos: The token that ends a text. None: none does.
    temperature: Logits are divided by it; 0: the most likely token, always.
    top_k: Draws among the k most likely tokens only. 0: all.
    top_p: Draws among the fewest most likely tokens whose probability reaches p
      (Holtzman et al., 2020). 1: all. With `top_k`: among those k.
    key: Decides what is drawn. A row's draws depend on it, on the row's prompt and
      on how often that prompt came before, not on the other prompts.

  Returns:
    The new tokens of each prompt, without eos.

  Raises:
    errors.UserError: If an argument is out of its range or the texts get longer
      than the model can read.
  """
  _check(module, prompts, num_tokens, temperature, top_k, top_p)
  if not prompts:
    return []
  nested = params if "params" not in params else params["params"]
  if any("/" in name for name in nested):
    nested = tree.unflatten(nested)
  inputs, counts = _pad(prompts)
  limits = {
      "num_tokens": np.int32(num_tokens),
      "eos": np.int32(-1 if eos is None else eos),
      "temperature": np.float32(temperature), "top_k": np.int32(top_k),
      "top_p": np.float32(top_p)}
  new = _run(
      module, _power(num_tokens), nested, inputs, counts, limits,
      _row_keys(jax.random.key(0) if key is None else key, prompts))
  return [_until(row[:num_tokens], eos) for row in np.asarray(new).tolist()]


def draw(
    logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_k: jax.Array,
    top_p: jax.Array
) -> jax.Array:
  """One token a row; see `generate` for what the arguments mean.

  Args:
    logits: dtype[B, V].
    keys: key[B].
    temperature: f32[].
    top_k: i32[].
    top_p: f32[].

  Returns:
    i32[B].
  """
  logits = logits.astype(jnp.float32)

  def sample():
    scaled = logits / temperature
    kept = lax.cond(
        (top_k > 0) | (top_p < 1), lambda: truncate(scaled, top_k, top_p),
        lambda: scaled)
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

  # A real branch, not a select: greedy decoding must not pay for the sort.
  return lax.cond(
      temperature > 0, sample, lambda: logits.argmax(-1).astype(jnp.int32))


def truncate(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
  """Logits f32[B, V] with -inf where top-k or top-p leave a token out."""
  size = logits.shape[-1]
  ordered, order = lax.top_k(logits, size)  # Ties: the lower token comes first.
  rank = jnp.arange(size, dtype=jnp.int32)[None]  # [1, V]
  kept = rank < jnp.where(top_k > 0, top_k, size)
  chances = jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf))
  before = jnp.cumsum(chances, axis=-1) - chances
  kept &= (before < top_p) | (rank == 0)
  rows = jnp.arange(logits.shape[0])[:, None]
  chosen = jnp.zeros(logits.shape, bool).at[rows, order].set(kept)
  return jnp.where(chosen, logits, -jnp.inf)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(module, size, params, inputs, counts, limits, keys):
  """Returns i32[B, size]; columns from num_tokens on and after eos are 0."""
  batch, length = inputs.shape
  extend = functools.partial(module.apply, {"params": params}, method="extend")

  def choose(logits, step, done):
    token = draw(
        logits, jax.vmap(jax.random.fold_in, (0, None))(keys, step),
        limits["temperature"], limits["top_k"], limits["top_p"])
    return jnp.where(done, 0, token), done | (token == limits["eos"])

  def more(state):
    step, _, done, _, _ = state
    return (step < limits["num_tokens"]) & ~done.all()

  def body(state):
    step, token, done, tokens, cache = state
    cache = jax.tree.map(lambda x, like: x.reshape(like.shape), cache, shapes)
    logits, cache = extend(token[:, None], jnp.ones((batch,), jnp.int32), cache)
    token, done = choose(logits, step, done)
    tokens = lax.dynamic_update_slice(tokens, token[:, None], (0, step))
    return step + 1, token, done, tokens, jax.tree.map(jnp.squeeze, cache)

  cache = module.apply({}, batch, length + size, method="init_cache")
  logits, cache = extend(inputs, counts, cache)
  token, done = choose(logits, 0, jnp.zeros((batch,), bool))
  tokens = jnp.zeros((batch, size), jnp.int32).at[:, 0].set(token)
  # XLA's CPU backend drops axes of size 1 from products; where the loop carries them,
  # it writes the cache a second time, and copies it before.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = (jnp.int32(1), token, done, tokens, cache)
  return lax.while_loop(more, body, state)[3]


def _check(module, prompts, num_tokens, temperature, top_k, top_p):
  wrong = [
      text for bad, text in (
          (num_tokens < 1, f"num_tokens is {num_tokens}, must be at least 1"),
          (not temperature >= 0, f"temperature is {temperature}, must be >= 0"),
          (top_k < 0, f"top_k is {top_k}, must be >= 0 (0: no limit)"),
          (not 0 < top_p <= 1, f"top_p is {top_p}, must be in (0, 1]"))
      if bad]
  wrong += [f"prompt {i} is empty; it needs a token, such as bos"
            for i, prompt in enumerate(prompts) if not prompt]
  wrong += [f"prompt {i} has token {max(prompt)}, the model knows 0 to"
            f" {module.config.vocab_size - 1}"
            for i, prompt in enumerate(prompts)
            if prompt and not 0 <= min(prompt) <= max(prompt) < module.config.vocab_size]
  longest = registry.longest(module)
  wrong += [f"prompt {i} has {len(prompt)} tokens and grows by {num_tokens}; the"
            f" model reads at most {longest}. Shorten the prompt or num_tokens"
            for i, prompt in enumerate(prompts)
            if longest is not None and len(prompt) + num_tokens > longest]
  if wrong:
    raise errors.UserError("Cannot generate:\n  " + "\n  ".join(wrong))


def _pad(prompts):
  """Tokens i32[B, P], padded on the right with 0, and counts i32[B]."""
  counts = np.array([len(prompt) for prompt in prompts], np.int32)
  inputs = np.zeros((len(prompts), _power(counts.max())), np.int32)
  for row, prompt in zip(inputs, prompts):
    row[:len(prompt)] = prompt
  return inputs, counts


def _power(size):
  """The smallest power of two that holds `size`, and at least `_SHORTEST`."""
  return max(_SHORTEST, 1 << (int(size) - 1).bit_length())


def _row_keys(key, prompts):
  """key[B]: a row's depends on its tokens and how often they came before."""
  seen = {}
  salts = []
  for prompt in prompts:
    tokens = np.asarray(prompt, np.int32).tobytes()
    seen[tokens] = seen.get(tokens, -1) + 1
    salts.append((zlib.crc32(tokens), seen[tokens]))
  fold = jax.vmap(lambda key, salt: jax.random.fold_in(
      jax.random.fold_in(key, salt[0]), salt[1]), (None, 0))
  return fold(key, np.array(salts, np.uint32))


def _until(tokens, eos):
  return tokens[:tokens.index(eos)] if eos in tokens else tokens
