"""Effective data: how much target data from scratch reaches the loss of a transfer.

Hernandez et al. (2021), Scaling Laws for Transfer, section 2: of a run that was
fine-tuned on D_F, the effective data D_E is the amount with which training from scratch
reaches the same loss, and D_T = D_E - D_F was transferred.

The control's losses with several amounts give a curve. It is interpolated, and with
four amounts or more a power law is fitted to it. Beyond the smallest and the largest
amount nothing was measured, so there the answer is a bound and not a number.

Axes: K amounts of the control, B exponents, X amounts that are tried.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize
from scipy import stats

from transfer_gen.metrics import power_law

LEVEL = 0.95  # Of intervals.
_LEAST = 4  # Amounts from which a power law is fitted: it has three params.
_TRIED = 200  # Amounts between the smallest and the largest, X.


def effective(
    control: Sequence[tuple[float, Sequence[float]]], treated: Sequence[float]
) -> dict[str, Any]:
  """Returns how much data of the control reaches the mean loss of the treated run.

  Args:
    control: For each amount of data, ascending and at least two of them, the losses of
      the control with several seeds.
    treated: Losses of the treated run with several seeds, in the same unit.

  Returns:
    `method`: "power law" or "interpolation"; `amount`: the effective data, None if it
    lies outside of what was measured; `low` and `high`: its 95% interval, None where a
    bound lies outside or no spread is known; `bound`: "" where `amount` is a number,
    "<" if it is below `smallest`, ">" if it is above `largest`; `smallest` and
    `largest`: amounts of the control; `amounts`: their number; `interpolated`: the
    amount by interpolation, whichever method counts, None if it lies outside; and of a
    power law `law`, its params with their standard errors.

    Losses are taken to vary alike with every amount, and independently.
  """
  amounts = np.array([amount for amount, _ in control], float)
  losses = [np.asarray(found, float) for _, found in control]
  reached = np.asarray(treated, float)
  law = power_law.fit(amounts, losses) if len(amounts) >= _LEAST else None
  between = interpolated(amounts, losses, reached.mean())
  found = law.amount(reached.mean()) if law else between
  smallest, largest = float(amounts[0]), float(amounts[-1])
  bound = "<" if found < smallest else ">" if found > largest else ""
  # What was found is among what is tried, however narrow the interval around it is.
  tried = np.unique([*np.linspace(math.log(smallest), math.log(largest), _TRIED),
                     *([] if bound else [math.log(found)])])
  excess = (_excess_of_law(law, amounts, losses, reached, tried) if law
            else _excess_of_lines(amounts, losses, reached, tried))
  low, high = (None, None) if excess is None else _ends(tried, excess, bound)
  return {
      "method": "power law" if law else "interpolation",
      "amount": None if bound else found, "low": low, "high": high, "bound": bound,
      "smallest": smallest, "largest": largest, "amounts": len(amounts),
      "interpolated": between if smallest <= between <= largest else None,
      **({"law": dataclasses.asdict(law)} if law else {})}


def interpolated(
    amounts: np.ndarray, losses: Sequence[np.ndarray], reached: float) -> float:
  """Returns the amount at which the control's curve has a loss.

  The curve joins the mean losses by straight lines over the logarithm of the amount.
  Where a mean is above that of a smaller amount, both become their mean, so that the
  curve never rises (isotonic regression, Barlow et al., 1972).

  Args:
    amounts: f64[K], ascending.
    losses: K arrays, the losses with each amount.
    reached: The loss.

  Returns:
    The smallest such amount; inf for a loss below the curve, and 0 for one above it.
  """
  curve, logs = _monotone(losses), np.log(amounts)
  if reached < curve[-1]:
    return math.inf
  if reached > curve[0]:
    return 0.0
  right = int(np.argmax(curve <= reached))
  if curve[right] == reached:
    return float(amounts[right])
  share = (curve[right - 1] - reached) / (curve[right - 1] - curve[right])
  return math.exp(logs[right - 1] + share * (logs[right] - logs[right - 1]))


# The treated run is one more point on the law, of an unknown amount. The interval is
# that of the profile likelihood (Bates and Watts, 1988, chapter 6), because the error
# is skewed: on a curve that flattens out, large amounts differ less in their losses.
def _excess_of_law(
    law: power_law.Law, amounts: np.ndarray, losses: Sequence[np.ndarray],
    reached: np.ndarray, tried: np.ndarray) -> np.ndarray | None:
  """Returns f64[X], at most 0 where the interval holds an amount; None if unknown."""
  counts, means = power_law.counted([*losses, reached])
  freedom = int(counts.sum()) - 4
  if freedom < 1 or law.exponent_error is None:
    return None
  # Wide enough for all exponents that fit, and the fitted one is in the middle.
  width = min(max(8 * law.exponent_error / law.exponent, 0.2), 3.0)
  exponents = law.exponent * np.exp(np.linspace(-width, width, 161))
  logs = np.log(amounts) - np.log(amounts).mean()
  known = np.exp(-exponents[:, None] * logs)  # f64[B, K].
  own = np.exp(-exponents * (tried[:, None] - np.log(amounts).mean()))  # f64[X, B].
  misfits = power_law.linear(np.concatenate([
      np.broadcast_to(known, (*own.shape, len(logs))), own[..., None]], -1),
      means, counts)[2].min(1)
  # With no amount given, the treated run fits any law whose floor lies below it, and
  # else its best place is infinitely far away, where the law has its floor.
  _, floors, apart = power_law.linear(known, means[:-1], counts[:-1])
  far = power_law.linear(
      np.concatenate([known, np.zeros((len(known), 1))], 1), means, counts)[2]
  least = min([*apart[floors < means[-1]], *far, *misfits])
  spread = power_law.within([*losses, reached])
  limit = (least + spread) * (1 + stats.f.ppf(LEVEL, 1, freedom) / freedom)
  return misfits + spread - limit


# Fieller's interval: the amounts at which the gap between curve and treated run is no
# larger than its own error allows.
def _excess_of_lines(
    amounts: np.ndarray, losses: Sequence[np.ndarray], reached: np.ndarray,
    tried: np.ndarray) -> np.ndarray | None:
  """Returns the same for the interpolated curve."""
  counts, _ = power_law.counted(losses)
  freedom = int(counts.sum()) - len(losses) + len(reached) - 1
  if freedom < 1:
    return None
  variance = power_law.within([*losses, reached]) / freedom
  logs = np.log(amounts)
  right = np.clip(np.searchsorted(logs, tried), 1, len(logs) - 1)
  share = (tried - logs[right - 1]) / (logs[right] - logs[right - 1])
  parts = ((1 - share) ** 2 / counts[right - 1] + share ** 2 / counts[right]
           + 1 / len(reached))
  gap = np.interp(tried, logs, _monotone(losses)) - reached.mean()
  return gap ** 2 - stats.t.ppf((1 + LEVEL) / 2, freedom) ** 2 * variance * parts


def _ends(
    tried: np.ndarray, excess: np.ndarray, bound: str
) -> tuple[float | None, float | None]:
  """Returns the ends of an interval; None where one lies outside of the amounts."""
  # What was found inside is in its interval, also where there is no noise at all.
  inside = np.flatnonzero(excess <= (0 if bound else max(excess.min(), 0)))
  first, last = math.exp(tried[0]), math.exp(tried[-1])
  if not len(inside):
    # All of it lies outside, and the nearest amount that was measured bounds it.
    return (last, None) if bound == ">" else (None, first)
  crossing = lambda i, j: math.exp(
      tried[i] + (tried[j] - tried[i]) * excess[i] / (excess[i] - excess[j]))
  left, right = inside[0], inside[-1]
  return (crossing(left - 1, left) if left else None,
          crossing(right, right + 1) if right + 1 < len(tried) else None)


def _monotone(losses: Sequence[np.ndarray]) -> np.ndarray:
  """Returns mean losses f64[K] that never rise with the amount."""
  counts, means = power_law.counted(losses)
  return optimize.isotonic_regression(means, weights=counts, increasing=False).x
