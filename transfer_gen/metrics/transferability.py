"""Measures of a source and a target that need no training, and how far to trust them.

The loss before any training (zero-shot) is `likelihood.loss` of the params as they were
transferred, and needs no function of its own.

Axes: N examples, D and E features, V tokens, C classes, L values of a penalty.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np
from scipy import stats

LEVEL = 0.95  # Of intervals.
_PENALTIES = np.geomspace(1e-8, 1e8, 65)  # f64[L], times the mean of the spectrum.
_ROUNDS = 200


def vocabulary_overlap(matched: np.ndarray, counts: np.ndarray) -> float:
  """Returns the share of the target's text whose tokens the source knows.

  It is sum(counts where matched) / sum(counts), so that a token counts as often as the
  text has it; over the vocabulary alone, rare tokens would decide.

  Args:
    matched: bool[V], which tokens of the target have a row in the source.
    counts: i64[V], occurrences of each token in the target's training text.
  """
  return float(counts[matched].sum() / counts.sum())


def gradient_alignment(
    source: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> float:
  """Returns the cosine between two gradients, in -1 to 1.

  It is that of the loss on the source's text and of the loss on the target's text, both
  at the source's params (Du et al., 2018, Adapting auxiliary losses using gradient
  similarity): above 0, a step that helps one text helps the other. A gradient of 0 has
  no direction, and gives 0.

  Args:
    source: Gradient by the name of the leaf.
    target: The other gradient. Leaves that only one of them has do not count.
  """
  common = source.keys() & target.keys()
  product, *squares = (
      sum(float(np.vdot(first[name].astype(np.float64), second[name]))
          for name in common)
      for first, second in ((source, target), (source, source), (target, target)))
  size = math.sqrt(squares[0] * squares[1])
  return product / size if size else 0.0


def cka(first: np.ndarray, second: np.ndarray) -> float:
  """Returns the linear CKA of two representations of the same examples, in 0 to 1.

  With centred X and Y it is |Y'X|^2 / (|X'X| |Y'Y|), in Frobenius norms (Kornblith et
  al., 2019, equation 5). Rotations and one scale of all features leave it as it is.

  Args:
    first: f64[N, D].
    second: f64[N, E].
  """
  first, second = (one - one.mean(0) for one in (first, second))
  norm = np.linalg.norm
  return float(norm(second.T @ first) ** 2 / (
      norm(first.T @ first) * norm(second.T @ second)))


def logme(features: np.ndarray, labels: np.ndarray) -> float:
  """Returns the LogME of frozen features for a classification (You et al., 2021).

  For each class, its indicator y is regressed on the features F by a Bayesian linear
  model with prior precision a and noise precision b. LogME is the logarithm of the
  evidence p(y | F, a, b) at its maximum over a and b, divided by N, mean over the
  classes that occur. Larger is better.

  With l = a / b and the eigenvalues s of F'F, b has a closed form for each l, and the
  evidence is N/2 log(b / 2 pi) - N/2 - 1/2 sum(log(1 + s / l)). The best of a grid of l
  is where the paper's fixed point begins, since the evidence may have several maxima.

  Args:
    features: f64[N, D], N above D.
    labels: i64[N], such as the next token after each position.
  """
  count = len(features)
  left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
  spectrum = singular ** 2  # f64[D].
  classes = np.unique(labels)
  indicators = (labels[:, None] == classes).astype(np.float64)  # f64[N, C].
  projected = (left.T @ indicators) ** 2  # f64[D, C].
  # What no feature can explain; rounding must not make it negative.
  outside = np.maximum((indicators ** 2).sum(0) - projected.sum(0), 0)

  def evidence(penalties):  # f64[C] of f64[C].
    shrunk = penalties / (spectrum[:, None] + penalties)  # f64[D, C].
    rest = outside + (projected * shrunk).sum(0)
    return (np.log(count / (2 * math.pi * rest)) - 1) / 2 + (
        np.log(shrunk).sum(0) / 2 / count)

  grid = _PENALTIES * spectrum.mean()
  penalties = grid[np.argmax([
      evidence(np.full(len(classes), one)) for one in grid], 0)]  # f64[C].
  for _ in range(_ROUNDS):
    total = spectrum[:, None] + penalties
    used = (spectrum[:, None] / total).sum(0)
    weights = (projected * spectrum[:, None] / total ** 2).sum(0)
    rest = outside + (projected * (penalties / total) ** 2).sum(0)
    # No class may run away to a penalty that no float can hold: a class that features
    # say nothing of has its maximum at infinity.
    penalties = np.clip(used / np.maximum(weights, 1e-300) * rest / (count - used),
                        grid.min(), grid.max())
  return float(evidence(penalties).mean())


def rank_correlation(
    measure: Sequence[float], gain: Sequence[float]) -> dict[str, float]:
  """Returns how well a measure ranks pairs by the gain that came.

  Args:
    measure: Its value for each pair of runs, four of them at least.
    gain: The gain of each pair.

  Returns:
    `rho`: Spearman's rank correlation; `low` and `high`: its 95% interval, by Fisher's
    z with the variance (1 + rho^2 / 2) / (N - 3) of Bonett and Wright (2000); `pairs`.
    Pairs in perfect order, whose z is infinite, have the interval of a rho halfway to
    that of the next order, in which two neighbors are exchanged.
  """
  count = len(measure)
  rho = float(stats.spearmanr(measure, gain).statistic)
  # Four pairs are in perfect order by chance once in 12 times: an interval of no width
  # would say that this cannot be.
  most = 1 - 6 / (count ** 3 - count)
  centre = math.atanh(min(max(rho, -most), most))
  half = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((1 + rho ** 2 / 2) / (count - 3))
  return {"rho": rho, "low": min(math.tanh(centre - half), rho),
          "high": max(math.tanh(centre + half), rho), "pairs": count}
