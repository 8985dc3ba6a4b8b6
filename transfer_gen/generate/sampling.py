"""Continues prompts greedily, or by sampling with temperature, top-k and top-p.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary. The prefill and the loop over new tokens are one compiled program for each
(B, P, N), and for each S if the model has an encoder.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any
import zlib

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen.generate import prefill
from transfer_gen.models import extended
from transfer_gen.models import registry


def generate(
    module: extended.Model,
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
  """Continues each prompt or, if the model has an encoder, answers each encoder input.

  A program is compiled for each number of prompts, with the longest prompt, the longest
  encoder input and `num_tokens` each rounded up to a power of two. Other values of the
  remaining arguments do not compile anything.

  Args:
    module: A model as `registry.build` returns it.
    params: Its params, flat by name or nested.
    prompts: Token ids of each prompt, at least one each. If None, there is one prompt
      for each of `encoder_inputs`, which holds only the model's `start_token`.
    num_tokens: Maximum number of new tokens.
    encoder_inputs: Token ids that the encoder reads, at least one each; only for a
      model with an encoder.
    eos: The token that ends a text. If None, no token does.
    temperature: Logits are divided by it. 0 means greedy decoding, which always takes
      the most likely token.
    top_k: Tokens are drawn from the k most likely ones. 0 means no limit.
    top_p: Tokens are drawn from the smallest set of most likely ones whose total
      probability reaches p (Holtzman et al., 2020). 1 means no limit. If `top_k` is set
      as well, probabilities are those among the k tokens.
    key: Decides what is drawn; `jax.random.key(0)` by default. The draws of a row
      depend on the key, on the row's encoder input and prompt, and on how many equal
      rows come before it, but not on the other rows.

  Returns:
    The new tokens of each prompt, without eos.

  Raises:
    errors.UserError: If an argument is out of range, or if the texts would become
      longer than the model can read.
  """
  prompts = prefill.default_prompts(module, prompts, encoder_inputs)
  _check(module, prompts, encoder_inputs, num_tokens, temperature, top_k, top_p)
  if not prompts:
    return []
  inputs, counts = prefill.pad(prompts)
  limits = {
      "num_tokens": np.int32(num_tokens),
      "eos": np.int32(-1 if eos is None else eos),  # No token is -1.
      "temperature": np.float32(temperature), "top_k": np.int32(top_k),
      "top_p": np.float32(top_p)}
  texts = prompts if encoder_inputs is None else [
      [*read, *prompt] for read, prompt in zip(encoder_inputs, prompts)]
  new = _run(
      module, prefill.padded_size(num_tokens), prefill.nest_params(params), inputs,
      counts, limits,
      _row_keys(jax.random.key(0) if key is None else key, texts),
      None if encoder_inputs is None else prefill.pad(
          encoder_inputs, registry.longest(module)))
  return [prefill.cut_at_eos(row[:num_tokens], eos) for row in np.asarray(new).tolist()]


def draw(
    logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_k: jax.Array,
    top_p: jax.Array
) -> jax.Array:
  """Chooses one token for each row.

  Args:
    logits: dtype[B, V].
    keys: key[B], one key for each row.
    temperature: f32[], as for `generate`.
    top_k: i32[], as for `generate`.
    top_p: f32[], as for `generate`.

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

  # `lax.cond` is a real branch where `jnp.where` would compute both sides: greedy
  # decoding must not pay for the sort of the vocabulary.
  return lax.cond(
      temperature > 0, sample, lambda: logits.argmax(-1).astype(jnp.int32))


# k is traced, and `lax.top_k` wants a static one, so each row is sorted as a whole and
# cut by rank. Only sampling with a limit pays for the sort, see `draw`.
def truncate(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
  """Sets the logits of tokens outside top-k and top-p to -inf.

  Args:
    logits: f32[B, V].
    top_k: i32[], as for `generate`.
    top_p: f32[], as for `generate`.

  Returns:
    f32[B, V]. At least one logit of each row is kept.
  """
  size = logits.shape[-1]
  ordered, order = lax.top_k(logits, size)  # Ties: the lower token comes first.
  rank = jnp.arange(size, dtype=jnp.int32)[None]  # [1, V]
  kept = rank < jnp.where(top_k > 0, top_k, size)
  chances = jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf))
  # A token is kept if those before it fall short of p, so the one that reaches p is
  # kept too. Rank 0 always is: p may be so small that rounding would leave nothing.
  before = jnp.cumsum(chances, axis=-1) - chances
  kept &= (before < top_p) | (rank == 0)
  rows = jnp.arange(logits.shape[0])[:, None]
  chosen = jnp.zeros(logits.shape, bool).at[rows, order].set(kept)
  return jnp.where(chosen, logits, -jnp.inf)


# Static is what shapes depend on; the limits are traced, so that other values compile
# nothing. The number of a step is folded into each row's key, so a row draws the same
# however long the texts beside it run. The loop ends when all rows are done, and rows
# that are done before compute along.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(module, size, params, inputs, counts, limits, keys, encoder_inputs=None):
  """Returns new tokens i32[B, size]; 0 after eos and from column num_tokens on."""
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

  logits, cache, extend = prefill.prefill(
      module, params, (inputs, counts), encoder_inputs, size)
  token, done = choose(logits, 0, jnp.zeros((batch,), bool))
  tokens = jnp.zeros((batch, size), jnp.int32).at[:, 0].set(token)
  # XLA's CPU backend drops axes of size 1 from products. If the loop's carry has such
  # axes, each step copies the cache and writes it a second time.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = (jnp.int32(1), token, done, tokens, cache)
  return lax.while_loop(more, body, state)[3]


# Written as `not >=`, because every comparison with NaN is False.
def _check(module, prompts, encoder_inputs, num_tokens, temperature, top_k, top_p):
  prefill.raise_misfits([
      *(text for bad, text in (
          (num_tokens < 1, f"num_tokens is {num_tokens}, must be at least 1"),
          (not temperature >= 0, f"temperature is {temperature}, must be >= 0"),
          (top_k < 0, f"top_k is {top_k}, must be >= 0 (0 means no limit)"),
          (not 0 < top_p <= 1, f"top_p is {top_p}, must be in (0, 1]")) if bad),
      *prefill.find_misfits(module, prompts, encoder_inputs, num_tokens)])


# crc32 and not `hash`, which is salted anew in each process. Texts with equal checksums
# are no harm: they draw with the same key from different logits.
def _row_keys(key, prompts):
  """Returns key[B]; a row's key depends on its tokens and the equal rows before it.

  So a prompt gets the same continuation in whatever batch it is, and a prompt that is
  given several times gets several continuations.
  """
  seen: dict[bytes, int] = {}
  salts = []
  for prompt in prompts:
    tokens = np.asarray(prompt, np.int32).tobytes()
    seen[tokens] = seen.get(tokens, -1) + 1
    salts.append((zlib.crc32(tokens), seen[tokens]))
  fold = jax.vmap(lambda key, salt: jax.random.fold_in(
      jax.random.fold_in(key, salt[0]), salt[1]), (None, 0))
  return fold(key, np.array(salts, np.uint32))
