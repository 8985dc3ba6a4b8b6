"""Tests for noise in texts against independent references and published examples."""

import collections
import itertools

import numpy as np
import pytest

from transfer_gen.data import corruption

MASK = 99


def _spans(ids, noise, sentinels):
  """Span corruption, token by token."""
  read, written, before = [], [], None
  names = {True: iter(sentinels), False: iter(sentinels)}
  for token, is_noise in zip(ids, noise, strict=True):
    if is_noise != before:  # A span begins: the other side gets a sentinel.
      (read if is_noise else written).append(next(names[is_noise]))
    (written if is_noise else read).append(token)
    before = is_noise
  return read, written


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 400])
@pytest.mark.parametrize("density, mean", [(0.15, 3.0), (0.5, 1.0), (0.9, 4.0)])
def test_span_corruption_matches_a_reference_written_token_by_token(
    length, density, mean):
  ids = np.arange(length, dtype=np.int32)
  sentinels = np.arange(1000, 1300)
  generator = np.random.default_rng(length)

  noise = corruption.noise_spans(length, density, mean, generator)
  read, written = corruption.span_corrupted(ids, noise, sentinels)

  wanted = _spans(ids.tolist(), noise.tolist(), sentinels.tolist())
  assert (read.tolist(), written.tolist()) == wanted
  # T5's numbers, in float64.
  tokens = min(max(int(np.round(np.float64(length) * density)), 1), length - 1)
  spans = min(max(int(np.round(np.float64(tokens) / mean)), 1), length - tokens)
  if length > 1:
    assert noise.sum() == tokens and not noise[0]
    assert len(read) == length - tokens + spans
    assert len(written) == tokens + spans + (not noise[-1])
    assert (tokens, spans) == corruption.noise_counts(length, density, mean)


def test_span_corruption_gives_the_example_of_the_paper():
  words = "Thank you for inviting me to your party last week .".split()
  noise = [word in ("for", "inviting", "last") for word in words]
  names = ["<X>", "<Y>", "<Z>", *dict.fromkeys(words)]
  ids = np.array([names.index(word) for word in words], np.int32)

  found = corruption.span_corrupted(ids, np.array(noise), [0, 1, 2])

  assert [" ".join(names[i] for i in side) for side in found] == [
      "Thank you <X> me to your party <Y> week .", "<X> for inviting <Y> last <Z>"]


def test_all_divisions_into_spans_are_as_likely():
  generator, count = np.random.default_rng(0), 12_000

  drawn = collections.Counter(
      corruption.noise_spans(8, 0.5, 2.0, generator).tobytes() for _ in range(count))

  # 4 tokens of noise in 2 spans, and 4 of text before, between and perhaps behind them.
  wanted = {np.repeat([False, True, False, True, False],
                      [a, n, b, 4 - n, 4 - a - b]).tobytes()
            for a, b, n in itertools.product((1, 2, 3), repeat=3) if a + b <= 4}
  assert drawn.keys() == wanted and len(wanted) == 18
  # Five standard deviations.
  assert max(abs(n - count / 18) for n in drawn.values()) < 5 * (count / 18) ** 0.5


@pytest.mark.parametrize("density", [0.15, 0.3, 0.8, 1.0])
def test_infilling_keeps_the_rest_in_order_and_never_makes_a_text_longer(density):
  ids = np.arange(50, dtype=np.int32)
  masks, seen = [], set()

  for seed in range(200):
    found = corruption.infilled(
        ids, density, 3.0, MASK, np.random.default_rng(seed)).tolist()
    kept = [i for i in found if i != MASK]
    assert kept == sorted(kept) and len(kept) == 50 - round(50 * density)
    assert len(found) <= 50
    masks.append(len(found) - len(kept))
    seen |= set(ids) - set(kept)

  # Of Poisson(3) lengths, until they add up: simulated on its own.
  lengths = np.random.default_rng(1).poisson(3.0, (4000, 60))
  reached = lengths.cumsum(1) - lengths < round(50 * density)
  assert np.mean(masks) == pytest.approx(reached.sum(1).mean(), rel=0.06)
  assert seen == set(range(50))


def test_masking_and_deletion_touch_their_share_of_the_tokens():
  ids = np.arange(40, dtype=np.int32)
  generator = np.random.default_rng(0)

  masked = corruption.masked(ids, 0.15, MASK, generator)
  deleted = corruption.deleted(ids, 0.15, generator)

  assert (masked == MASK).sum() == 6 and (masked[masked != MASK] < 40).all()
  assert (masked[masked != MASK] == ids[masked != MASK]).all()
  assert len(deleted) == 34 and (np.diff(deleted) > 0).all()
  assert corruption.deleted(ids[:3], 1.0, generator).tolist() == [0]


def test_sentences_are_shuffled_as_wholes():
  ids = np.array([5, 6, 0, 7, 0, 8, 9, 9, 0, 4], np.int32)  # 0 ends a sentence.

  found = {tuple(corruption.permuted(ids, {0}, np.random.default_rng(seed)).tolist())
           for seed in range(300)}

  parts = [(5, 6, 0), (7, 0), (8, 9, 9, 0), (4,)]
  assert found == {tuple(itertools.chain(*order))
                   for order in itertools.permutations(parts)}
