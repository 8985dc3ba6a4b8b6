"""What settings do to the scores of the next token, in sampling and in beam search.

Each setting does what the `LogitsProcessor` of the same purpose does in Hugging Face
Transformers (Wolf et al., 2020), and they act in the same order, except that given
first and last tokens come last and so win over suppressed ones.

Axes: B texts, L tokens of a text and of its prompt, V vocabulary.
"""

import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen.generate import settings


def process(
    scores: jax.Array, step: jax.Array, text: jax.Array, begin: int, left: jax.Array,
    switches: settings.Switches, limits: settings.Limits) -> jax.Array:
  """Applies penalties and constraints to the scores of the next token.

  Args:
    scores: f32[B, V], logits or log probabilities.
    step: i32[], number of new tokens of each text.
    text: i32[B, L], the prompt and the new tokens, V where there is no token; it is
      read only if `switches.reads_text`.
    begin: Slot of the first new token in `text`. The prompt ends before it.
    left: i32[B], number of tokens by which each text may still grow.
    switches: Which settings act.
    limits: Their values, see `settings.bind`.

  Returns:
    f32[B, V], -inf for tokens that must not follow.
  """
  if switches.repetition:
    scores = _penalized(scores, text, limits["repetition"])
  if switches.ngram:
    scores = _without(scores, _repeating(
        text, begin + step, scores.shape[1], switches.ngram))
  if switches.suppress:
    scores = jnp.where(limits["suppress"][None], -jnp.inf, scores)
  if switches.min_tokens:
    early = limits["ends"] & (step < limits["min_tokens"])
    scores = jnp.where(early[None], -jnp.inf, scores)
  if switches.first:
    scores = _given(scores, limits["first"], jnp.broadcast_to(step == 0, left.shape))
  if switches.last:
    scores = _given(scores, limits["last"], left == 1)
  return scores


def truncate(
    logits: jax.Array, switches: settings.Switches, limits: settings.Limits
) -> jax.Array:
  """Sets the logits of tokens outside top-k, top-p and min-p to -inf.

  Args:
    logits: f32[B, V], divided by the temperature.
    switches: Which settings act.
    limits: Their values.

  Returns:
    f32[B, V]. At least one logit of each row is kept.
  """
  if switches.candidates:
    logits = _ranked(logits, switches.candidates, limits["top_k"], limits["top_p"])
  if switches.min_p:
    # The ratio of two probabilities does not depend on what else was left out.
    floor = logits.max(axis=-1, keepdims=True) + jnp.log(limits["min_p"])
    logits = jnp.where(logits < floor, -jnp.inf, logits)
  return logits


# k is traced, so the likeliest tokens up to the next power of two are ranked and then
# cut by rank. Only sampling with a limit pays for it.
def _ranked(logits, candidates, top_k, top_p):
  """Keeps the k likeliest tokens, and of those the fewest that reach p together."""
  size = logits.shape[-1]
  count = size if candidates < 0 else min(candidates, size)
  ordered, order = lax.top_k(logits, count)  # Ties: the lower token comes first.
  rank = jnp.arange(count, dtype=jnp.int32)[None]
  kept = rank < jnp.where(top_k > 0, top_k, size)
  chances = jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf))
  # A token is kept if those before it fall short of p, so the one that reaches p is
  # kept too. Rank 0 always is: p may be so small that rounding would leave nothing.
  before = jnp.cumsum(chances, axis=-1) - chances
  kept &= (before < top_p) | (rank == 0)
  rows = jnp.arange(logits.shape[0])[:, None]
  chosen = jnp.zeros(logits.shape, bool).at[rows, order].set(kept)
  return jnp.where(chosen, logits, -jnp.inf)


def _penalized(scores, text, penalty):
  """Makes tokens of the text less likely (Keskar et al., 2019, section 4.1)."""
  rows = jnp.arange(scores.shape[0])[:, None]
  # "drop": V stands for no token.
  occurred = jnp.zeros(scores.shape, bool).at[rows, text].set(True, mode="drop")
  less = jnp.where(scores < 0, scores * penalty, scores / penalty)
  return jnp.where(occurred, less, scores)


def _repeating(text, end, size, ngram):
  """Returns the tokens i32[B, M] that would end a sequence that has occurred, or V.

  Args:
    text: i32[B, L].
    end: i32[], slot of the token to come.
    size: V.
    ngram: Length of the sequences.
  """
  windows = text.shape[1] - ngram + 1
  if windows < 1:
    return jnp.full((text.shape[0], 1), size, jnp.int32)
  # In a text that is too short these slots hold a V, which the last line but one drops.
  start = jnp.maximum(end - (ngram - 1), 0)
  last = lax.dynamic_slice_in_dim(text, start, ngram - 1, axis=1)
  same = jnp.ones((text.shape[0], windows), bool)
  for i in range(ngram - 1):
    same &= text[:, i:i + windows] == last[:, i:i + 1]
  same &= (last < size).all(axis=1, keepdims=True)
  return jnp.where(same, text[:, ngram - 1:], size)


def _without(scores, tokens):
  rows = jnp.arange(scores.shape[0])[:, None]
  return scores.at[rows, tokens].set(-jnp.inf, mode="drop")


def _given(scores, token, when):
  """Leaves a single token, with a log probability of 0, in the rows bool[B]."""
  only = jnp.arange(scores.shape[1], dtype=jnp.int32) == token
  alone = jnp.where(only, 0.0, -jnp.inf)
  return jnp.where(when[:, None], alone[None], scores)
