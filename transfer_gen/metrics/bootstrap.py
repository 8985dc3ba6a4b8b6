"""Intervals of scores, and tests of whether two runs differ.

The draws, their number and their seed are those of sacreBLEU (Post, 2018), so that the
intervals and p-values of its metrics equal what its command line prints.

Axes: N documents, K statistics of a metric, S samples of documents.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen.metrics import measured as measured_lib

Measured = measured_lib.Measured
SAMPLES = 1000  # Of the bootstrap.
TRIALS = 10_000  # Of the randomization test.
# What sacreBLEU takes by default. Each test starts from it anew, so that both runs of a
# comparison are scored on the same draws, and a repeated call prints the same.
_SEED = 12345
# An array of so many float64 takes 80 MB. The draws of a bootstrap over a million
# documents would take 8 GB if they were all held.
_CELLS = 10_000_000  # Largest S x N that is held at a time.


def interval(found: Measured) -> tuple[float, float]:
  """Returns the 95% interval of a score, low and high.

  It is the percentile interval of the bootstrap (Efron and Tibshirani, 1993, chapter
  13; for BLEU, Koehn, 2004): documents are drawn with replacement, as many as there
  are.
  """
  return _middle(_resampled(found.statistics, found))


def compare(first: Measured, second: Measured) -> dict[str, Any]:
  """Tests whether two runs differ, which were measured on the same documents.

  Args:
    first: One metric of one run.
    second: The same metric of the other run, document by document.

  Returns:
    `difference`: score of the first minus score of the second; `low`, `high`: its 95%
    interval, where both runs are scored on the same draws; `p_bootstrap`: the p-value
    of the paired bootstrap test (Koehn, 2004); `p_randomization`: that of paired
    approximate randomization (Riezler and Maxwell, 2005), which exchanges the two
    outputs of a document with probability one half; `better`: whether the first run
    has the better score.

  Raises:
    errors.UserError: If the numbers of documents differ.
  """
  if len(first.statistics) != len(second.statistics):
    raise errors.UserError(
        f"{first.name} was measured on {len(first.statistics)} documents of one run and"
        f" {len(second.statistics)} of the other. Evaluate both on the same --data.")
  difference = first.score() - second.score()
  draws = _resampled(first.statistics, first) - _resampled(second.statistics, second)
  low, high = _middle(draws)
  sizes = np.abs(draws[~np.isnan(draws)])
  return {
      "difference": difference, "low": low, "high": high,
      "p_bootstrap": _p_value(sizes - sizes.mean(), difference),
      "p_randomization": _p_value(_exchanged(first, second), difference),
      "better": difference > 0 if first.higher else difference < 0}


def _resampled(statistics: np.ndarray, found: Measured) -> np.ndarray:
  """Returns the scores f64[S] of samples of the documents."""
  count = len(statistics)
  generator = np.random.default_rng(_SEED)
  scores = []
  for size in _parts(SAMPLES, count):
    drawn = generator.choice(count, size=(size, count), replace=True)
    # How often each sample holds each document: one product with the statistics then
    # adds up all samples.
    times = np.stack([np.bincount(row, minlength=count) for row in drawn])
    scores.append(found.value(times.astype(np.float64) @ statistics))
  return np.concatenate(scores)


# One draw decides both halves of a trial: where one takes the output of the first run,
# the other takes that of the second. This keeps the documents paired.
def _exchanged(first: Measured, second: Measured) -> np.ndarray:
  """Returns the sizes f64[S] of the difference where outputs change places."""
  count = len(first.statistics)
  generator = np.random.default_rng(_SEED)
  sizes = []
  for size in _parts(TRIALS, count):
    stays = generator.integers(2, size=(size, count), dtype=bool).astype(np.float64)
    scores = [first.value(stays @ one + (1.0 - stays) @ other) for one, other in (
        (first.statistics, second.statistics), (second.statistics, first.statistics))]
    sizes.append(np.abs(scores[0] - scores[1]))
  return np.concatenate(sizes)


def _parts(samples: int, documents: int) -> Iterator[int]:
  """Divides a number of samples into parts that fit into memory."""
  # A multiple of 32: NumPy cuts words of 32 bits into booleans and drops the rest of
  # the last word of a call, so other parts would draw other numbers.
  part = max(_CELLS // max(documents, 1) // 32 * 32, 32)
  while samples > 0:
    yield min(part, samples)
    samples -= part


# The bounds are scores that were drawn, as in sacreBLEU. `np.quantile` would by default
# interpolate between neighbours, and give slightly other bounds.
def _middle(scores: np.ndarray) -> tuple[float, float]:
  """Returns the bounds of the middle 95% of some scores."""
  # A sample may hold nothing to count, and then it has no score.
  ordered = np.sort(scores[~np.isnan(scores)])
  cut = len(ordered) // 40
  return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])


# One is added above and below, so that no finite number of trials ends at p = 0.
def _p_value(sizes: np.ndarray, difference: float) -> float:
  """Returns how probable so large a difference is if the runs do not differ."""
  # Runs that score the same do not differ. sacreBLEU would report the smallest
  # p-value for them, because no sample differs by more than nothing.
  if not difference:
    return 1.0
  return (int(np.sum(sizes > abs(difference))) + 1) / (len(sizes) + 1)
