"""Continues prompts: greedily, or drawn with temperature, top-k and top-p.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary. The whole of it, prompt and loop, is one compiled program for each (B, P,
N), and S behind an encoder.
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

from transfer_gen.generate import start
from transfer_gen.models import registry


def generate(
    module: nn.Module,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    num_tokens: int,
    encoder_inputs: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    key: jax.Array | None = None,
) -> list[list[int]]:
  """Continues each prompt; with an encoder, answers each encoder input.

  Compiled once for a number of prompts and powers of two that hold the longest
  prompt, the longest encoder input and `num_tokens`; no other argument's value compiles
  anything.

  Args:
    module: A model of `registry.build`.
    params: Its params, flat by name or nested.
    prompts: Tokens, at least one each. If None, each begins with the
      model's `start_token`, one for each of `encoder_inputs`.
    num_tokens: Most tokens that are added.
    encoder_inputs: Tokens that the encoder reads, at least one each; only for a
      model with an encoder.
    eos: The token that ends a text. None: none does.
    temperature: Logits are divided by it; 0: the most likely token, always.
    top_k: Draws among the k most likely tokens only. 0: all.
    top_p: Draws among the fewest most likely tokens whose probability reaches p
      (Holtzman et al., 2020). 1: all. With `top_k`: among those k.
    key: Decides what is drawn. A row's draws depend on it, on the row's encoder
      input and prompt and on how often they came before, not on the other rows.

  Returns:
    The new tokens of each prompt, without eos.

  Raises:
    errors.UserError: If an argument is out of its range or the texts get longer
      than the model can read.
  """
  prompts = start.prompts_of(module, prompts, encoder_inputs)
  _check(module, prompts, encoder_inputs, num_tokens, temperature, top_k, top_p)
  if not prompts:
    return []
  inputs, counts = start.pad(prompts)
  limits = {
      "num_tokens": np.int32(num_tokens),
      "eos": np.int32(-1 if eos is None else eos),
      "temperature": np.float32(temperature), "top_k": np.int32(top_k),
      "top_p": np.float32(top_p)}
  texts = prompts if encoder_inputs is None else [
      [*read, *prompt] for read, prompt in zip(encoder_inputs, prompts)]
  new = _run(
      module, start.power(num_tokens), start.nested(params), inputs, counts, limits,
      _row_keys(jax.random.key(0) if key is None else key, texts),
      None if encoder_inputs is None else start.pad(
          encoder_inputs, registry.longest(module)))
  return [start.until(row[:num_tokens], eos) for row in np.asarray(new).tolist()]


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
def _run(module, size, params, inputs, counts, limits, keys, encoder_inputs=None):
  """Returns i32[B, size]; columns from num_tokens on and after eos are 0."""
  batch = inputs.shape[0]

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

  logits, cache, extend = start.first(
      module, params, (inputs, counts), encoder_inputs, size)
  token, done = choose(logits, 0, jnp.zeros((batch,), bool))
  tokens = jnp.zeros((batch, size), jnp.int32).at[:, 0].set(token)
  # XLA's CPU backend drops axes of size 1 from products; where the loop carries them,
  # it writes the cache a second time, and copies it before.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = (jnp.int32(1), token, done, tokens, cache)
  return lax.while_loop(more, body, state)[3]


def _check(module, prompts, encoder_inputs, num_tokens, temperature, top_k, top_p):
  start.raise_if([
      *(text for bad, text in (
          (num_tokens < 1, f"num_tokens is {num_tokens}, must be at least 1"),
          (not temperature >= 0, f"temperature is {temperature}, must be >= 0"),
          (top_k < 0, f"top_k is {top_k}, must be >= 0 (0: no limit)"),
          (not 0 < top_p <= 1, f"top_p is {top_p}, must be in (0, 1]")) if bad),
      *start.misfits(module, prompts, encoder_inputs, num_tokens)])


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
