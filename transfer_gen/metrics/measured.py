"""What a metric found in documents, and the score of any sample of them.

Axes: N documents, K statistics of a metric, S samples of documents.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np


# A generated `__eq__` would raise, because an array has no single truth value.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
  """The sufficient statistics of a metric, document by document.

  The score of a set of documents depends only on the sums of their statistics. So a
  bootstrap scores a thousand samples without looking at a text again.

  Attributes:
    name: Name of the metric, e.g. `bleu`.
    statistics: f64[N, K].
    value: Maps sums f64[S, K] to scores f64[S]; NaN where there was nothing to count.
    higher: Whether a higher score is better.
    signature: How exactly the score was computed, and by which version of a library;
      empty if the name says it all.
  """
  name: str
  statistics: np.ndarray
  # A bootstrap asks for many samples in one call, and what is a quotient of sums
  # answers without a loop in Python.
  value: Callable[[np.ndarray], np.ndarray]
  higher: bool
  signature: str = ""

  def score(self) -> float:
    """Returns the score of all documents; NaN if there was nothing to count."""
    return float(self.value(self.statistics.sum(0, keepdims=True))[0])

  def with_statistics(self, statistics: np.ndarray) -> "Measured":
    """Returns the same metric with other statistics f64[N, K]."""
    return dataclasses.replace(self, statistics=statistics)


def share(
    name: str, totals: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray, *, higher: bool, signature: str = "",
) -> Measured:
  """Returns a metric that divides a sum over documents by another one.

  Args:
    name: Name of the metric.
    totals: [N], what is divided.
    counts: [N], what it is divided by.
    higher: Whether a higher score is better.
    signature: As of `Measured`.

  Example:
    >>> from transfer_gen.metrics import measured
    >>> measured.share("exact_match", [1, 0, 1, 1], [1, 1, 1, 1], higher=True).score()
    0.75
  """
  statistics = np.stack([totals, counts], 1).astype(np.float64)
  return Measured(
      name=name, statistics=statistics, value=ratio, higher=higher, signature=signature)


# Not 0 where nothing was counted: a bound of an interval could become such a 0, while
# callers can recognize a NaN and leave it out.
def ratio(sums: np.ndarray) -> np.ndarray:
  """Returns f64[S], the quotients of sums f64[S, 2]; NaN where the second is 0."""
  return np.divide(
      sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
