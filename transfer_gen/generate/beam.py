"""Beam search for the continuations with the highest length-normalized probability.

It gives the same tokens as Hugging Face Transformers (Wolf et al., 2020;
`generate(num_beams=...)` with its defaults).

Axes: B rows, K beams, C candidates of a step, N new tokens, rounded up; V vocabulary.
The whole search is one compiled program for each (B, K, N) and each padded length of
prompts and encoder inputs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen.generate import prefill
from transfer_gen.models import caches
from transfer_gen.models import extended
from transfer_gen.models import registry


@dataclasses.dataclass(frozen=True)
class Found:
  """One continuation that the search found.

  Attributes:
    tokens: The new tokens, without eos.
    score: Sum of the new tokens' log probabilities, in nats, divided by
      (their number ** length_penalty). Both include eos.
  """
  tokens: list[int]
  score: float


def search(
    module: extended.Model,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    beams: int,
    num_tokens: int,
    encoder_inputs: Sequence[Sequence[int]] | None = None,
    eos: int | None = None,
    length_penalty: float = 1.0,
) -> list[list[Found]]:
  """Searches for the best continuations of each prompt, or answers to encoder inputs.

  In each step, the 2 K best extensions of the K running texts are candidates. A
  candidate among the first K that ends, with eos or because it has `num_tokens`
  tokens, is finished. The best K candidates that do not end run on. Of all finished
  texts, the K with the highest scores are kept. The search of a row stops when its best
  running text, scored at its present length, is no better than the worst of K finished
  ones.

  Args:
    module: A model as `registry.build` returns it.
    params: Its params, flat by name or nested.
    prompts: Token ids of each prompt, at least one each. If None, there is one prompt
      for each of `encoder_inputs`, which holds only the model's `start_token`.
    beams: K, the number of running texts of each row. 1 means greedy decoding.
    num_tokens: Maximum number of new tokens.
    encoder_inputs: Token ids that the encoder reads; only for a model with an encoder.
    eos: The token that ends a text. If None, no token does.
    length_penalty: Exponent of the length by which a text's log probability is divided.
      0 means no division; values above 0 favor longer texts, values below 0 shorter
      ones.

  Returns:
    For each prompt, at most K continuations, the best first.

  Raises:
    errors.UserError: If an argument is out of range, or if the texts would become
      longer than the model can read.
  """
  prompts = prefill.default_prompts(module, prompts, encoder_inputs)
  prefill.raise_misfits([
      *(text for bad, text in (
          (beams < 1, f"beams is {beams}, must be at least 1"),
          (num_tokens < 1, f"num_tokens is {num_tokens}, must be at least 1"),
          (not np.isfinite(length_penalty),
           f"length_penalty is {length_penalty}, must be finite")) if bad),
      *prefill.find_misfits(module, prompts, encoder_inputs, num_tokens)])
  if not prompts:
    return []
  limits = {
      "num_tokens": np.int32(num_tokens),
      "eos": np.int32(-1 if eos is None else eos),
      "length_penalty": np.float32(length_penalty)}
  found = _run(
      module, prefill.padded_size(num_tokens), beams, prefill.nest_params(params),
      prefill.pad(prompts), None if encoder_inputs is None else prefill.pad(
          encoder_inputs, registry.longest(module)), limits)
  rows = zip(*(np.asarray(x).tolist() for x in found))
  return [[Found(prefill.cut_at_eos(tokens[:count], eos), score)
           for tokens, count, score in zip(*row) if score > -np.inf] for row in rows]


# The carry of a compiled loop: its arrays cannot grow, so all N tokens have their place
# from the start, and a score of -inf marks what is not there yet.
@struct.dataclass
class _State:
  """Running and finished texts of each row; a slot with score -inf is empty."""
  tokens: jax.Array  # i32[B, K, N].
  scores: jax.Array  # f32[B, K], sums of log probabilities, the best first.
  finished: jax.Array  # i32[B, K, N].
  counts: jax.Array  # i32[B, K], tokens of each finished text, eos included.
  finished_scores: jax.Array  # f32[B, K], the best first.
  open: jax.Array  # bool[B], whether a row may still find better texts.


# Static is what shapes depend on. The limits are traced, so that another `eos`, length
# penalty or number of tokens (up to the same power of two) compiles nothing.
#
# Scalars of a cache, such as the number of used slots, are the same for all rows and
# stay single: neither the repetition nor the choice of parents applies to them.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(module, size, beams, params, prompts, encoder_inputs, limits):
  """Returns `finished`, `counts` and `finished_scores` of the last `_State`."""
  batch = prompts[0].shape[0]
  logits, cache, extend = prefill.prefill(module, params, prompts, encoder_inputs, size)
  # Copies each row K times, one for each beam.
  each = lambda x: jnp.repeat(x, beams, axis=0) if x.ndim else x
  tokens = jnp.zeros((batch, beams, size), jnp.int32)
  nothing = jnp.full((batch, beams), -jnp.inf)
  # All K beams start from the same text. Only the first has a score above -inf;
  # otherwise the search would keep K copies of the same continuation.
  state, last, _ = _choose(each(logits), 0, _State(
      tokens=tokens, scores=nothing.at[:, 0].set(0.0), finished=tokens,
      counts=jnp.zeros((batch, beams), jnp.int32), finished_scores=nothing,
      open=jnp.ones((batch,), bool)), limits)

  def more(carry):
    step, state, _, _ = carry
    return (step < limits["num_tokens"]) & state.open.any()

  def body(carry):
    step, state, last, cache = carry
    cache = jax.tree.map(lambda x, like: x.reshape(like.shape), cache, shapes)
    logits, cache = extend(last[:, None], jnp.ones_like(last), cache)
    state, last, parents = _choose(logits, step, state, limits)
    # What the encoder read is the same for all beams of a row, so it needs no
    # reordering, which would copy it in each step.
    cache = {name: part if name == caches.MEMORY else jax.tree.map(
        lambda x: x[parents] if x.ndim else x, part) for name, part in cache.items()}
    return step + 1, state, last, jax.tree.map(jnp.squeeze, cache)

  cache = jax.tree.map(each, cache)
  # The carry has no axes of size 1, for the reason given in `sampling`.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = lax.while_loop(more, body, (jnp.int32(1), state, last, cache))[1]
  return state.finished, state.counts, state.finished_scores


# Log probabilities are summed over a whole text, in float32, and an unfinished text
# always competes by its plain sum: running texts of a row have the same length.
#
# Only candidates among the first K may finish, as in Transformers. Whether a row stays
# open follows its `early_stopping=False`: the best running text is judged at its
# present length, although a longer one may score higher with a length penalty above 0.
# While fewer than K texts are finished, the worst is -inf and the row stays open.
def _choose(logits, step, state, limits):
  """Takes one step of the search in each row.

  Args:
    logits: dtype[B K, V], of the next token of each running text.
    step: i32[], number of new tokens that running texts have before the step.
    state: The state before the step.
    limits: `num_tokens`, `eos` and `length_penalty`, as for `search`.

  Returns:
    The state after the step; the last token i32[B K] of each text that runs on; and
    i32[B K], the index among all B K texts of the one that it extends.
  """
  batch, beams, size = state.tokens.shape
  chances = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, beams, -1)
  width = chances.shape[-1]
  totals = (state.scores[:, :, None] + chances).reshape(batch, -1)
  # 2 K candidates leave K that run on even if K of them end. With one beam the second
  # candidate is left out: greedy decoding stops at eos.
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


# Whole texts are moved, since a beam's next text may extend any of the K.
def _at(texts, index):
  """Selects texts: from dtype[B, J, N] and indices i32[B, I] to dtype[B, I, N]."""
  return jnp.take_along_axis(texts, index[:, :, None], axis=1)
