"""Noise in texts of tokens, as pure functions.

Each takes the ids of a text, i32[N], and a generator of NumPy, and returns new ids.
"""

from collections.abc import Collection, Sequence

import numpy as np

Ids = np.ndarray  # i32[N].


def masked(
    ids: Ids, density: float, mask: int, generator: np.random.Generator) -> Ids:
  """Replaces random tokens by a mask (token masking of BART: Lewis et al., 2020)."""
  return np.where(_chosen(len(ids), density, generator), mask, ids).astype(np.int32)


def deleted(ids: Ids, density: float, generator: np.random.Generator) -> Ids:
  """Removes random tokens (token deletion of BART), but never all of them."""
  kept = ids[~_chosen(len(ids), density, generator)]
  return kept if len(kept) else ids[:1]


def infilled(
    ids: Ids, density: float, mean: float, mask: int, generator: np.random.Generator
) -> Ids:
  """Replaces spans by one mask each (text infilling of BART: Lewis et al., 2020).

  Lengths of spans are drawn from a Poisson distribution until they add up to the share
  of the tokens that is to be replaced; the last one is cut to it. A span of length 0
  inserts a mask. The result never is longer than the text.

  Args:
    ids: The text.
    density: Share of the tokens that is replaced, rounded to whole tokens.
    mean: Mean of the Poisson distribution; 3 in the paper.
    mask: Id of the mask.
    generator: What is drawn.
  """
  left, lengths = round(density * len(ids)), []
  while left > 0:
    lengths.append(min(int(generator.poisson(mean)), left))
    left -= lengths[-1]
  filled = [length for length in lengths if length]
  kept = len(ids) - sum(filled)
  # Empty spans take the room that the others leave.
  empty = min(len(lengths) - len(filled), len(ids) - kept - len(filled))
  spans = generator.permutation([*filled, *[0] * empty])
  # Spans and kept tokens in random order, so that no span overlaps another.
  order = generator.permutation(np.arange(kept + len(spans)) < len(spans))
  out, position, used = [], 0, 0
  for is_span in order.tolist():
    out.append(mask if is_span else ids[position])
    position += int(spans[used]) if is_span else 1
    used += is_span
  return np.array(out, np.int32)


def permuted(
    ids: Ids, ends: Collection[int], generator: np.random.Generator) -> Ids:
  """Shuffles the sentences of a text (sentence permutation of BART).

  Args:
    ids: The text.
    ends: Ids of tokens that end a sentence.
    generator: What is drawn.
  """
  stops = [i + 1 for i, token in enumerate(ids.tolist()) if token in ends]
  sentences = [part for part in np.split(ids, stops) if len(part)]
  order = generator.permutation(len(sentences))
  return np.concatenate([sentences[i] for i in order]) if sentences else ids


def noise_counts(length: int, density: float, mean: float) -> tuple[int, int]:
  """Returns how many tokens of a text, and in how many spans, become noise.

  As T5 does (Raffel et al., 2020, section 3.1.4): at least one token and not all of
  them, and at least one span. A text of one token has no noise.

  Args:
    length: Number of tokens of the text.
    density: Share of them that is noise.
    mean: Mean length of a span, in tokens.
  """
  if length < 2:
    return 0, 0
  tokens = min(max(round(length * density), 1), length - 1)
  # Between spans there is at least one token.
  return tokens, min(max(round(tokens / mean), 1), length - tokens)


def noise_spans(
    length: int, density: float, mean: float, generator: np.random.Generator
) -> np.ndarray:
  """Draws which tokens of a text are noise, bool[N].

  Spans of text and of noise alternate, beginning with text; all divisions are as
  likely. T5's own code also ends with noise. Here text may follow, as in figure 2 of
  the paper: of a short text with one span, that code would always take the end.

  Args:
    length: N.
    density: As for `noise_counts`.
    mean: As for `noise_counts`.
    generator: What is drawn.
  """
  tokens, spans = noise_counts(length, density, mean)
  if not spans:
    return np.zeros(length, bool)
  # One token more than there are, so that only the last span of text may be empty.
  kept = _divided(length - tokens + 1, spans + 1, generator)
  noise = _divided(tokens, spans, generator)
  sizes = np.insert(kept, np.arange(1, spans + 1), noise)
  sizes[-1] -= 1
  return np.repeat(np.arange(2 * spans + 1) % 2 == 1, sizes)


def span_corrupted(
    ids: Ids, noise: np.ndarray, sentinels: Sequence[int]) -> tuple[Ids, Ids]:
  """Replaces spans by sentinels; the target is the spans behind their sentinels.

  From "Thank you [for inviting] me to your party [last] week ." it makes the input
  "Thank you <X> me to your party <Y> week ." and the target "<X> for inviting <Y> last
  <Z>" (Raffel et al., 2020, figure 2).

  Args:
    ids: The text.
    noise: bool[N], which tokens are noise; not the first one.
    sentinels: Ids of the sentinels, in order, one more than there are spans of noise.
  """
  assert not noise[:1].any(), "a text begins with what is kept"
  return _with_sentinels(ids, noise, sentinels), _with_sentinels(ids, ~noise, sentinels)


def _with_sentinels(ids, replaced, sentinels) -> Ids:
  """Replaces each span of tokens by the next sentinel."""
  first = replaced & ~np.concatenate([[False], replaced[:-1]])
  numbers = np.asarray(sentinels, np.int32)[np.maximum(np.cumsum(first) - 1, 0)]
  return np.where(first, numbers, ids)[first | ~replaced].astype(np.int32)


def _chosen(length, density, generator) -> np.ndarray:
  """Returns a random share of the tokens of a text, rounded to whole ones."""
  return generator.permutation(np.arange(length) < round(density * length))


def _divided(count, parts, generator) -> np.ndarray:
  """Returns sizes i64[parts], each at least 1, that add up to `count`."""
  begins = generator.permutation(np.arange(count - 1) < parts - 1)
  return np.diff(np.flatnonzero([True, *begins, True]))
