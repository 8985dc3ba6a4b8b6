"""Beam search: the continuations of highest probability, by their length.

The search of Hugging Face Transformers (Wolf et al., 2020; `generate(num_beams=...)`
with its defaults), token by token. Axes: B rows, K beams, C candidates of a step, N
new tokens, rounded up; V vocabulary. All of it is one compiled program for each (B,
K, N) and the padded lengths.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen.generate import start
from transfer_gen.models import registry


@dataclasses.dataclass(frozen=True)
class Found:
  """One continuation.

  Attributes:
    tokens: The new ones, without eos.
    score: Sum of their log probabilities (eos included) / their number ** penalty.
  """
  tokens: list[int]
  score: float


def search(
    module: nn.Module,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    beams: int,
    num_tokens: int,
    encoder_inputs: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    length_penalty: float = 1.0,
) -> list[list[Found]]:
  """The best continuations of each prompt; with an encoder, answers to each input.

  In each step the 2 K best continuations of K running texts are candidates. Those
  among the first K that end, by eos or as the last of `num_tokens`, are finished; the
  best K others run on. Of all finished, K are kept by score. A row is done when its
  best running text, were it as long as now, would score below all of K finished ones.

  Args:
    module: A model of `registry.build`.
    params: Its params, flat by name or nested.
    prompts: Tokens, at least one each. If None, each begins with the
      model's `start_token`, one for each of `encoder_inputs`.
    beams: K. 1: the most likely token, always.
    num_tokens: Most tokens that are added.
    encoder_inputs: Tokens that the encoder reads; only for a model with an encoder.
    eos: The token that ends a text. None: none does.
    length_penalty: Exponent of the length that log probabilities are divided by. 0:
      their sum; above 0 longer texts gain, below 0 they lose.

  Returns:
    For each prompt what was found, at most K, the best first.

  Raises:
    errors.UserError: If an argument is out of its range or the texts get longer
      than the model can read.
  """
  prompts = start.prompts_of(module, prompts, encoder_inputs)
  start.raise_if([
      *(text for bad, text in (
          (beams < 1, f"beams is {beams}, must be at least 1"),
          (num_tokens < 1, f"num_tokens is {num_tokens}, must be at least 1"),
          (not np.isfinite(length_penalty),
           f"length_penalty is {length_penalty}, must be finite")) if bad),
      *start.misfits(module, prompts, encoder_inputs, num_tokens)])
  if not prompts:
    return []
  limits = {
      "num_tokens": np.int32(num_tokens),
      "eos": np.int32(-1 if eos is None else eos),
      "length_penalty": np.float32(length_penalty)}
  found = _run(
      module, start.power(num_tokens), beams, start.nested(params), start.pad(prompts),
      None if encoder_inputs is None else start.pad(
          encoder_inputs, registry.longest(module)), limits)
  rows = zip(*(np.asarray(x).tolist() for x in found))
  return [[Found(start.until(tokens[:count], eos), score)
           for tokens, count, score in zip(*row) if score > -np.inf] for row in rows]


@struct.dataclass
class _State:
  """Running and finished texts of each row; a place of score -inf is empty."""
  tokens: jax.Array  # i32[B, K, N].
  scores: jax.Array  # f32[B, K], sums of log probabilities, the best first.
  finished: jax.Array  # i32[B, K, N].
  counts: jax.Array  # i32[B, K], tokens of each finished text, eos included.
  finished_scores: jax.Array  # f32[B, K], the best first.
  open: jax.Array  # bool[B], whether a row may still get better.


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(module, size, beams, params, prompts, encoder_inputs, limits):
  """Returns finished, counts and finished_scores."""
  batch = prompts[0].shape[0]
  logits, cache, extend = start.first(module, params, prompts, encoder_inputs, size)
  each = lambda x: jnp.repeat(x, beams, axis=0) if x.ndim else x  # Of a row, K.
  tokens = jnp.zeros((batch, beams, size), jnp.int32)
  nothing = jnp.full((batch, beams), -jnp.inf)
  state, last, _ = _choose(each(logits), 0, _State(
      tokens=tokens, scores=nothing.at[:, 0].set(0.0), finished=tokens,
      counts=jnp.zeros((batch, beams), jnp.int32), finished_scores=nothing,
      open=jnp.ones((batch,), bool)), limits)  # All K begin alike: one counts.

  def more(carry):
    step, state, _, _ = carry
    return (step < limits["num_tokens"]) & state.open.any()

  def body(carry):
    step, state, last, cache = carry
    cache = jax.tree.map(lambda x, like: x.reshape(like.shape), cache, shapes)
    logits, cache = extend(last[:, None], jnp.ones_like(last), cache)
    state, last, parents = _choose(logits, step, state, limits)
    # All beams of a row look at one source.
    cache = {name: part if name == "source" else jax.tree.map(
        lambda x: x[parents] if x.ndim else x, part) for name, part in cache.items()}
    return step + 1, state, last, jax.tree.map(jnp.squeeze, cache)

  cache = jax.tree.map(each, cache)
  # As in `sampling`: no axes of size 1 in what the loop carries.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = lax.while_loop(more, body, (jnp.int32(1), state, last, cache))[1]
  return state.finished, state.counts, state.finished_scores


def _choose(logits, step, state, limits):
  """One step of each row.

  Args:
    logits: dtype[B K, V].
    step: i32[], tokens that running texts have.
    state: Before it.
    limits: See `search`.

  Returns:
    The state after it; and of each running text then, i32[B K], its last token and
    which text before it, among B K, it goes on from.
  """
  batch, beams, size = state.tokens.shape
  chances = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, beams, -1)
  width = chances.shape[-1]
  totals = (state.scores[:, :, None] + chances).reshape(batch, -1)
  # One beam has no second to run on where the first ends: that is greedy.
  scores, index = lax.top_k(totals, 2 * beams if beams > 1 else 1)  # [B, C]
  parents, token = index // width, index % width
  texts = lax.dynamic_update_slice(
      _at(state.tokens, parents), token[:, :, None], (0, 0, step))
  ends = (token == limits["eos"]) | (step + 1 == limits["num_tokens"])

  running, order = lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
  length = (step + 1.0) ** limits["length_penalty"]
  among = jnp.arange(scores.shape[1])[None] < beams
  ended = jnp.where(ends & among & state.open[:, None], scores / length, -jnp.inf)
  finished_scores, kept = lax.top_k(
      jnp.concatenate([state.finished_scores, ended], axis=1), beams)
  counts = jnp.concatenate(
      [state.counts, jnp.full(ended.shape, step + 1, jnp.int32)], axis=1)
  after = _State(
      tokens=_at(texts, order), scores=running,
      finished=_at(jnp.concatenate([state.finished, texts], axis=1), kept),
      counts=jnp.take_along_axis(counts, kept, axis=1), finished_scores=finished_scores,
      open=state.open & (running[:, 0] / length > finished_scores[:, -1]))
  first = jnp.arange(batch, dtype=jnp.int32)[:, None] * beams
  parents = first + jnp.take_along_axis(parents, order, axis=1)
  return after, jnp.take_along_axis(token, order, axis=1).ravel(), parents.ravel()


def _at(texts, index):
  """dtype[B, J, N] at i32[B, I] to dtype[B, I, N]."""
  return jnp.take_along_axis(texts, index[:, :, None], axis=1)
