"""The difference between two runs, over seeds and documents together.

Both runs were trained with several seeds and measured on the same documents. Other
seeds would have given another difference, and so would other documents. Documents are
crossed with seeds: what is hard in one document is so for every seed. So more seeds do
not make up for few documents, nor more documents for few seeds.

With three seeds, a bootstrap that draws seeds and documents gives intervals that hold
the truth far too rarely, because three values seldom show their spread. So the interval
draws the variances instead, from the analysis of variance of two crossed factors.

Axes: R seeds, N documents, S draws.
"""

from collections.abc import Sequence
import functools
from typing import Any

import numpy as np
from scipy import optimize
from scipy import special
from scipy import stats

from transfer_gen import errors
from transfer_gen.metrics import measured as measured_lib

Measured = measured_lib.Measured
LEVEL = 0.95  # Of intervals.
_DRAWS = 4000


def compare(first: Sequence[Measured], second: Sequence[Measured]) -> dict[str, Any]:
  """Compares two runs in one metric, paired by seed and by document.

  Args:
    first: The metric of one run for each seed, R of them.
    second: The same of the other run, of the same seeds and documents.

  Returns:
    What `interval` returns, of the score of the first run minus that of the second,
    mean over seeds; `better`: whether the first run has the better mean; `p_worse`: how
    probable a mean so bad or worse is for the first run if the two do not differ;
    `seeds_ahead`: on how many seeds the first run is better.

  Raises:
    errors.UserError: If the numbers of documents differ.
  """
  if len({len(one.statistics) for one in (*first, *second)}) > 1:
    raise errors.UserError(
        f"{first[0].name} was measured on other numbers of documents for some runs or"
        " seeds. Compare runs with the same test data.")
  values = np.stack([shares(one) - shares(other) for one, other in zip(first, second)])
  sign = 1 if first[0].higher else -1
  found = interval(values)
  p_worse = found["p"] / 2 if sign * found["difference"] < 0 else 1 - found["p"] / 2
  return found | {
      "better": bool(sign * found["difference"] > 0), "p_worse": p_worse,
      "seeds_ahead": int(np.sum(sign * values.mean(1) > 0))}


def shares(found: Measured) -> np.ndarray:
  """Returns f64[N], the part of each document in a score; their mean is the score.

  These are the pseudo-values of the jackknife (Efron and Tibshirani, 1993, chapter 11),
  moved so that their mean is the score s itself: s + (N - 1) (m - s_n), where s_n is
  the score without document n and m is the mean of all s_n. Of a mean they are its
  values, and of a quotient of sums its linear part.
  """
  statistics = found.statistics
  count = len(statistics)
  if count < 2:
    return np.full(count, found.score())
  without = found.value(statistics.sum(0) - statistics)
  # Where one document holds all that a metric counts, the rest has no score.
  without = np.where(np.isnan(without), found.score(), without)
  return found.score() + (count - 1) * (without.mean() - without)


def interval(values: np.ndarray) -> dict[str, Any]:
  """Estimates the mean of values that vary by seed and by document, with an interval.

  The model is y_rn = mean + seed_r + document_n + rest_rn. A, B and E are the expected
  mean squares of seeds, of documents and of the rest; the mean has the variance V = (A
  + max(B - E, 0)) / (R N), where B - E is R times the variance that seeds share. Each
  of A, B and E is what was observed times f / chi2(f), with its degrees of freedom f.
  So the error of the mean is distributed as Z sqrt(V), with Z standard normal and V
  drawn, and the interval holds 95% of that distribution (generalized confidence
  interval, Weerahandi, 1993; p-value, Tsui and Weerahandi, 1989). If only seeds vary it
  is Student's t interval of the R means, and if only documents vary nearly that of the
  N means. With one seed it is that of the documents.

  Args:
    values: f64[R, N], differences between two runs.

  Returns:
    `difference`, the mean; `low` and `high`, its 95% interval; `p`, two-sided, that
    there is no difference, which is below 0.05 exactly if the interval does not hold 0;
    `documents`, N; `seeds`, R. If nothing varies, as with a single document, `low` and
    `high` are the mean, and `p` is 1.
  """
  seeds, documents = values.shape
  mean = float(values.mean())
  deviations = np.sqrt(_variances(values)) if documents > 1 else np.zeros(1)
  half, p = 0.0, 1.0  # Without any spread, the size of chance is unknown.
  if deviations.any():
    root: Any = optimize.brentq(
        lambda size: _beyond(size, deviations) - (1 - LEVEL), 0, 10 * deviations.max())
    half = float(root)
    p = _beyond(abs(mean), deviations)
  return {"difference": mean, "low": mean - half, "high": mean + half, "p": p,
          "documents": documents, "seeds": seeds}


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusts p-values of several tests (Holm, 1979).

  If no test has an effect, the smallest of the adjusted values falls below 0.05 with a
  probability of at most 0.05, however the tests depend on each other.
  """
  ascending = np.argsort(p_values)
  factors = np.arange(len(p_values), 0, -1)
  adjusted = np.maximum.accumulate(np.asarray(p_values)[ascending] * factors)
  found = np.empty(len(p_values))
  found[ascending] = np.minimum(adjusted, 1.0)
  return found.tolist()


# The normal factor is not drawn but summed over, which leaves little noise.
def _beyond(size: float, deviations: np.ndarray) -> float:
  """Returns the probability of an error larger than `size`, for deviations f64[S]."""
  # Not 0, for which the quotient would have no value.
  least = deviations.max() * 1e-12
  return 2 * float(special.ndtr(-size / np.maximum(deviations, least)).mean())


def _variances(values: np.ndarray) -> np.ndarray:
  """Returns draws f64[S] of the variance of the mean of values f64[R, N]."""
  seeds, documents = values.shape
  if seeds == 1:
    return values.var() / documents * _spread((documents - 1,))[0] * (
        documents / (documents - 1))
  of_seed, of_document = values.mean(1), values.mean(0)
  rest = values - of_seed[:, None] - of_document + values.mean()
  freedoms = (seeds - 1, documents - 1, (seeds - 1) * (documents - 1))
  sums = (documents * seeds * of_seed.var(), seeds * documents * of_document.var(),
          (rest ** 2).sum())
  first, second, third = (
      total / freedom * drawn
      for total, freedom, drawn in zip(sums, freedoms, _spread(freedoms)))
  return (first + np.maximum(second - third, 0)) / values.size


@functools.lru_cache
def _spread(freedoms: tuple[int, ...]) -> list[np.ndarray]:
  """Returns draws f64[S] of f / chi2(f) for each number f of degrees of freedom."""
  # A Latin hypercube: evenly spaced quantiles, in an order of its own for each factor.
  # With few seeds the tail decides, and plain draws would leave it to chance.
  middles = (np.arange(_DRAWS) + 0.5) / _DRAWS
  generator = np.random.default_rng(0)
  return [freedom / stats.chi2.ppf(generator.permutation(middles), freedom)
          for freedom in freedoms]
