"""Beam search for the continuations with the highest length-normalized probability.

It gives the same tokens as Hugging Face Transformers (Wolf et al., 2020;
`generate(num_beams=...)`), with penalties and constraints as well.

Axes: B rows, K beams, C candidates of a step, N new tokens, rounded up; V vocabulary;
L = N, or P + N where settings read the prompt, which has P tokens, padded. The whole
search is one compiled program for each (B, K, N), each padded length of prompts and
encoder inputs, and each combination of settings that act.
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

from transfer_gen import config as config_lib
from transfer_gen.generate import prefill
from transfer_gen.generate import scores as scores_lib
from transfer_gen.generate import settings
from transfer_gen.models import extended

_BLOCK = 64  # Scores of which at first only the largest is looked at.


@dataclasses.dataclass(frozen=True)
class Found:
  """One continuation that the search found.

  Attributes:
    tokens: The new tokens, without the one that ends the text.
    score: Sum of the new tokens' log probabilities, in nats, divided by
      (their number ** length_penalty). Both include the token that ends the text.
  """
  tokens: list[int]
  score: float


def search(
    module: extended.Model,
    params: Mapping[str, Any],
    prompts: prefill.Texts | None = None,
    *,
    decoding: config_lib.Decoding,
    encoder_inputs: prefill.Texts | None = None,
    budgets: Sequence[int] | None = None,
    place: prefill.PlaceFn = lambda rows: rows,
) -> list[list[Found]]:
  """Searches for the best continuations of each prompt, or answers to encoder inputs.

  In each step, the best extensions of the K running texts are candidates: 2 K of them,
  or (E + 1) K if E > 1 tokens end a text. A candidate among the first K that ends, with
  such a token or because its budget is used up, is finished. The best K candidates that
  do not end run on. Of all finished texts, the K with the highest scores are kept. When
  the search of a row stops, `decoding.early_stopping` says.

  Args:
    module: A model as `registry.build` returns it.
    params: Its params, flat by name or nested.
    prompts: Token ids of each prompt, at least one each. If None, there is one prompt
      for each of `encoder_inputs`, which holds only the model's `start_token`.
    decoding: How texts are written; `max_tokens` must be set, and no token ends a text
      if `end_tokens` is empty. One beam means greedy decoding.
    encoder_inputs: Token ids that the encoder reads; only for a model with an encoder.
    budgets: Maximum number of new tokens of each row, at most `decoding.max_tokens`,
      which it is by default.
    place: Puts arrays, whose first axis is B, on devices.

  Returns:
    For each prompt, at most K continuations, the best first.

  Raises:
    errors.UserError: If a setting is out of range, or if the texts would become longer
      than the model can read.
  """
  prompts = prefill.default_prompts(module, prompts, encoder_inputs)
  if budgets is None:
    budgets = [decoding.max_tokens] * len(prompts)
  vocab_size = module.config.vocab_size
  prefill.raise_misfits([
      *settings.find_misfits(decoding, vocab_size),
      *prefill.find_misfits(module, prompts, encoder_inputs, budgets)])
  if not prompts:
    return []
  switches, limits = settings.bind(decoding, vocab_size)
  rows = place(prefill.pad_rows(module, prompts, encoder_inputs, budgets))
  found = _run(module, prefill.padded_size(decoding.max_tokens), switches,
               prefill.nest_params(params), rows, limits)
  ends = (vocab_size, *decoding.end_tokens)
  return [[Found(prefill.cut(tokens, ends), score)
           for tokens, score in zip(*row) if score > -np.inf]
          for row in zip(*(np.asarray(x).tolist() for x in found))]


# The carry of a compiled loop: its arrays cannot grow, so all N tokens have their place
# from the start, and a score of -inf marks what is not there yet.
@struct.dataclass
class _State:
  """Running and finished texts of each row; a slot with score -inf is empty."""
  texts: jax.Array  # i32[B, K, L], V where there is no token.
  scores: jax.Array  # f32[B, K], sums of log probabilities, the best first.
  finished: jax.Array  # i32[B, K, L].
  finished_scores: jax.Array  # f32[B, K], the best first.
  open: jax.Array  # bool[B], whether a row may still find better texts.


# Static is what shapes and operations depend on. The limits are traced, so that another
# end token, length penalty or number of tokens (up to the same power of two) compiles
# nothing.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(module, size, switches, params, rows, limits):
  """Returns the new tokens i32[B, K, N] of finished texts, and scores f32[B, K]."""
  beams, batch = switches.beams, rows["counts"].shape[0]
  logits, cache = prefill.prefill(module, params, rows, size * beams)
  cache = module.apply({}, cache, beams, method="fork")
  text = prefill.text(rows, size, logits.shape[-1], switches.reads_text)
  texts = jnp.repeat(text[:, None], beams, axis=1)
  nothing = jnp.full((batch, beams), -jnp.inf)
  # All K beams start from the same text. Only the first has a score above -inf;
  # otherwise the search would keep K copies of the same continuation.
  state = _State(
      texts=texts, scores=nothing.at[:, 0].set(0.0), finished=texts,
      finished_scores=nothing, open=jnp.ones((batch,), bool))
  choose = functools.partial(
      _choose, size=size, switches=switches, budgets=rows["budgets"], limits=limits)
  state, tokens, parents = choose(
      jnp.repeat(logits[:, None], beams, axis=1), jnp.int32(0), state)

  def more(carry):
    return carry[1].open.any()

  def body(carry):
    step, state, tokens, parents, cache = carry
    cache = jax.tree.map(lambda x, like: x.reshape(like.shape), cache, shapes)
    logits, cache = module.apply(
        {"params": params}, tokens, parents, cache, method="branch")
    return step + 1, *choose(logits, step, state), jax.tree.map(jnp.squeeze, cache)

  # The carry has no axes of size 1, for the reason given in `sampling`.
  shapes, cache = jax.eval_shape(lambda: cache), jax.tree.map(jnp.squeeze, cache)
  state = lax.while_loop(
      more, body, (jnp.int32(1), state, tokens, parents, cache))[1]
  return state.finished[..., -size:], state.finished_scores


# Log probabilities are summed over a whole text, in float32, and an unfinished text
# always competes by its plain sum: running texts of a row have the same length.
#
# Only candidates among the first K may finish, as in Transformers. While fewer than K
# texts are finished, the worst is -inf and the row stays open.
def _choose(logits, step, state, *, size, switches, budgets, limits):
  """Takes one step of the search in each row.

  Args:
    logits: dtype[B, K, V], of the next token of each running text.
    step: i32[], number of new tokens that running texts have before the step.
    state: The state before the step.
    size: N.
    switches: Which settings act.
    budgets: i32[B], maximum number of new tokens.
    limits: See `settings.bind`.

  Returns:
    The state after the step; the last token i32[B, K] of each text that runs on; and
    i32[B, K], the index of the text that it extends.
  """
  batch, beams, width = logits.shape
  before = state.texts.shape[2] - size
  chances = scores_lib.process(
      jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(-1, width), step,
      state.texts.reshape(batch * beams, -1), before,
      jnp.repeat(budgets - step, beams), switches, limits)
  totals = (state.scores[:, :, None] + chances.reshape(logits.shape)).reshape(batch, -1)
  # Twice as many candidates as beams leave K that run on even if K of them end. With
  # one beam the second one is left out: greedy decoding stops when a text ends.
  scores, index = _best(totals, beams * max(2, 1 + switches.ends) if beams > 1 else 1)
  parents, token = index // width, index % width  # [B, C]
  texts = lax.dynamic_update_slice(
      _at(state.texts, parents), token[:, :, None], (0, 0, before + step))
  ends = limits["ends"][token] | (step + 1 >= budgets)[:, None]

  running, order = lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
  length = (step + 1.0) ** limits["length_penalty"]
  among = jnp.arange(scores.shape[1])[None] < beams
  ended = jnp.where(ends & among & state.open[:, None], scores / length, -jnp.inf)
  finished_scores, kept = lax.top_k(
      jnp.concatenate([state.finished_scores, ended], axis=1), beams)
  after = _State(
      texts=_at(texts, order), scores=running,
      finished=_at(jnp.concatenate([state.finished, texts], axis=1), kept),
      finished_scores=finished_scores,
      open=state.open & _promising(
          running[:, 0], finished_scores[:, -1], length, switches, budgets, limits))
  of = lambda x: jnp.take_along_axis(x, order, axis=1)
  return after, of(token), of(parents)


# With "no", the best running text is judged at its present length, although a longer
# one may score higher with a length penalty above 0.
def _promising(best, worst, length, switches, budgets, limits):
  """Returns bool[B], whether a running text may still become one of the K best.

  Args:
    best: f32[B], score of the best running text.
    worst: f32[B], score of the worst of K finished texts; -inf if there are fewer.
    length: f32[], what scores are divided by at the present length.
    switches: Which settings act.
    budgets: i32[B], maximum number of new tokens.
    limits: See `settings.bind`.
  """
  if switches.early == "never":
    # Scores are below 0, so a larger divisor is better: the one of the longest text if
    # the exponent is positive.
    penalty = limits["length_penalty"]
    length = jnp.where(
        penalty > 0, budgets.astype(jnp.float32) ** penalty, length)
  promising = best / length > worst
  return promising & (worst == -jnp.inf) if switches.early == "yes" else promising


def _best(scores, count):
  """Returns the `count` largest of f32[B, M] and their indices, as `lax.top_k` does.

  Only blocks whose largest score is among the `count` largest of all blocks can hold
  one of them. Blocks are compared first, because ranking takes much longer than a
  maximum.
  """
  batch, size = scores.shape
  blocks = -(-size // _BLOCK)
  if blocks <= 2 * count:
    return lax.top_k(scores, count)
  padded = jnp.pad(scores, ((0, 0), (0, blocks * _BLOCK - size)),
                   constant_values=-jnp.inf).reshape(batch, blocks, _BLOCK)
  _, chosen = lax.top_k(padded.max(axis=2), count)
  # In order, so that of equal scores the one with the lower index comes first.
  chosen = jnp.sort(chosen, axis=1)
  best, at = lax.top_k(_at(padded, chosen).reshape(batch, -1), count)
  index = jnp.take_along_axis(chosen, at // _BLOCK, axis=1) * _BLOCK + at % _BLOCK
  return best, jnp.minimum(index, size - 1)  # Padding is chosen only where all is -inf.


# Whole texts are moved, since a beam's next text may extend any of the K.
def _at(texts, index):
  """Selects texts: from dtype[B, J, N] and indices i32[B, I] to dtype[B, I, N]."""
  return jnp.take_along_axis(texts, index[:, :, None], axis=1)
