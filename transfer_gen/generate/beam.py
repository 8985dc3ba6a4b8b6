"""Beam search for the continuations with the highest length-normalized probability.

It gives the same tokens as Hugging Face Transformers (Wolf et al., 2020;
`generate(num_beams=...)`), with penalties and constraints as well.

Axes: B rows, K beams, C candidates of a step, N new tokens, rounded up; V vocabulary;
L = N, or P + N where settings read the prompt, which has P tokens, padded. Two
programs, `begin` and `advance`, are compiled for each (B, K, N), each padded length of
prompts and encoder inputs, and each combination of settings that act.
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
from transfer_gen.generate import running
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
    latents: np.ndarray | None = None,
    budgets: Sequence[int] | None = None,
    place: prefill.PlaceFn = lambda rows: rows,
    resize: bool = False,
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
    latents: f32[B, Z], in place of what the encoder reads; only for a model with a
      latent, and with prompts.
    budgets: Maximum number of new tokens of each row, at most `decoding.max_tokens`,
      which it is by default.
    place: Puts arrays, whose first axis is B, on devices.
    resize: See `running.to_end`.

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
      *prefill.find_misfits(module, prompts, encoder_inputs, budgets, latents)])
  if not prompts:
    return []
  switches, limits = settings.bind(decoding, vocab_size)
  rows = place(prefill.pad_rows(module, prompts, encoder_inputs, budgets, latents))
  ends = (vocab_size, *decoding.end_tokens)
  method = running.Method(
      begin=begin, advance=advance, texts=("texts", "finished"),
      read=lambda state, size: _found(state, size, ends))
  return running.to_end(
      method, module, prefill.nest_params(params), switches, rows, limits,
      longest=prefill.padded_size(decoding.max_tokens), resize=resize)


# The carry of a compiled loop: its arrays cannot grow, so all N tokens have their place
# from the start, and a score of -inf marks what is not there yet.
@struct.dataclass
class State:
  """Running and finished texts of each row; a slot with score -inf is empty.

  Attributes:
    step: i32[], number of new tokens of running texts.
    tokens: i32[B, K], the last ones of running texts.
    parents: i32[B, K], index of the running text, one step before, that each extends.
    texts: i32[B, K, L], V where there is no token.
    scores: f32[B, K], sums of log probabilities, the best first.
    finished: i32[B, K, L].
    finished_scores: f32[B, K], the best first.
    done: bool[B], whether a row can find no better texts.
    cache: What the model keeps, see `caches.fork`.
  """
  step: jax.Array
  tokens: jax.Array
  parents: jax.Array
  texts: jax.Array
  scores: jax.Array
  finished: jax.Array
  finished_scores: jax.Array
  done: jax.Array
  cache: Any


# Static is what shapes and operations depend on. The limits are traced, so that another
# end token, length penalty or number of tokens (up to the same power of two) compiles
# nothing.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def begin(
    module: extended.Model, size: int, switches: settings.Switches,
    params: Mapping[str, Any], rows: prefill.Rows, limits: settings.Limits) -> State:
  """Reads prompts and takes the first step; arguments as for `sampling.begin`."""
  beams, batch = switches.beams, rows["counts"].shape[0]
  logits, cache = prefill.prefill(module, params, rows, size * beams)
  cache = module.apply({}, cache, beams, method="fork")
  text = prefill.text(rows, size, logits.shape[-1], switches.reads_text)
  texts = jnp.repeat(text[:, None], beams, axis=1)
  nothing = jnp.full((batch, beams), -jnp.inf)
  none = jnp.zeros((batch, beams), jnp.int32)
  # All K beams start from the same text. Only the first has a score above -inf;
  # otherwise the search would keep K copies of the same continuation.
  state = State(
      step=jnp.int32(0), tokens=none, parents=none, texts=texts,
      scores=nothing.at[:, 0].set(0.0), finished=texts, finished_scores=nothing,
      done=jnp.zeros((batch,), bool), cache=cache)
  return _chosen(
      jnp.repeat(logits[:, None], beams, axis=1), size, switches, state, rows, limits)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def advance(
    module: extended.Model, size: int, switches: settings.Switches,
    params: Mapping[str, Any], state: State, rows: prefill.Rows,
    limits: settings.Limits, until: jax.Array, fewest: jax.Array) -> State:
  """Takes further steps; arguments as for `sampling.advance`."""
  def write(state):
    logits, cache = module.apply(
        {"params": params}, state.tokens, state.parents, state.cache, method="branch")
    return dataclasses.replace(
        _chosen(logits, size, switches, state, rows, limits), cache=cache)

  return running.loop(write, state, until, fewest)


def _found(state, size, ends):
  """Returns what the search found in each row, the best first."""
  texts = np.asarray(state.finished[..., -size:]).tolist()
  return [[Found(prefill.cut(tokens, ends), score)
           for tokens, score in zip(*row) if score > -np.inf]
          for row in zip(texts, np.asarray(state.finished_scores).tolist())]


# Log probabilities are summed over a whole text, in float32, and an unfinished text
# always competes by its plain sum: running texts of a row have the same length.
#
# Only candidates among the first K may finish, as in Transformers. While fewer than K
# texts are finished, the worst is -inf and the row stays open.
def _chosen(logits, size, switches, state, rows, limits):
  """Returns the state after one more step; logits are dtype[B, K, V]."""
  step, budgets = state.step, rows["budgets"]
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

  sums, order = lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
  length = (step + 1.0) ** limits["length_penalty"]
  among = jnp.arange(scores.shape[1])[None] < beams
  ended = jnp.where(ends & among & ~state.done[:, None], scores / length, -jnp.inf)
  finished_scores, kept = lax.top_k(
      jnp.concatenate([state.finished_scores, ended], axis=1), beams)
  of = lambda x: jnp.take_along_axis(x, order, axis=1)
  return dataclasses.replace(
      state, step=step + 1, tokens=of(token), parents=of(parents),
      texts=_at(texts, order), scores=sums,
      finished=_at(jnp.concatenate([state.finished, texts], axis=1), kept),
      finished_scores=finished_scores,
      done=state.done | ~_promising(
          sums[:, 0], finished_scores[:, -1], length, switches, budgets, limits))


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
