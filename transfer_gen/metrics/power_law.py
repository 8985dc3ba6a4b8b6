"""Power laws of losses over amounts of data, fitted by least squares.

Axes: K amounts, B exponents.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize

_EXPONENTS = np.geomspace(0.01, 5, 100)  # f64[B], where the search begins.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
  """The power law loss = scale * amount ** -exponent + floor.

  Attributes:
    scale: Loss above the floor with an amount of 1.
    exponent: How fast it falls, above 0.
    floor: Loss that no amount of data goes below, at least 0.
    scale_error: Standard error of the scale, of the linearized law; None if there are
      no more losses than params.
    exponent_error: The same of the exponent.
    floor_error: The same of the floor.
  """
  scale: float
  exponent: float
  floor: float
  scale_error: float | None
  exponent_error: float | None
  floor_error: float | None

  def amount(self, loss: float) -> float:
    """Returns the amount with a loss: inf for a loss that is not above the floor."""
    if loss <= self.floor:
      return math.inf
    # As a logarithm, because far away the amount may exceed what a float can hold.
    log = math.log((loss - self.floor) / self.scale) / -self.exponent
    return math.exp(log) if log < 700 else math.inf


def fit(amounts: np.ndarray, losses: Sequence[np.ndarray]) -> Law | None:
  """Fits a power law by least squares; None if the losses do not fall with the amount.

  For a given exponent the best scale and floor follow from linear least squares, so
  that only the exponent is searched for (variable projection, Golub and Pereyra, 1973).

  Args:
    amounts: f64[K], different ones, K at least 3.
    losses: K arrays, the losses with each amount.
  """
  counts, means = counted(losses)
  logs = np.log(amounts)
  logs, centre = logs - logs.mean(), logs.mean()
  powers = lambda log: np.exp(-np.exp(np.atleast_1d(log))[:, None] * logs)
  misfits = lambda log: linear(powers(log), means, counts)[2]
  tried = np.log(_EXPONENTS)
  best = int(np.argmin(misfits(tried)))
  # The search on a grid comes first, because the misfit may have several minima.
  bounds = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
  log = optimize.minimize_scalar(
      lambda log: misfits(log)[0], method="bounded", bounds=bounds).x
  [scale], [floor], [misfit] = linear(powers(log), means, counts)
  if scale <= 0:
    return None
  exponent = math.exp(log)
  spread, freedom = float(misfit) + within(losses), int(counts.sum()) - 3
  errors = (None, None, None) if not freedom else _errors(
      logs, centre, counts, scale, exponent, spread / freedom)
  return Law(scale=float(scale) * math.exp(exponent * centre), exponent=exponent,
             floor=float(floor), scale_error=errors[0], exponent_error=errors[1],
             floor_error=errors[2])


def linear(
    powers: np.ndarray, means: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Fits means by scale * powers + floor, where the floor is at least 0, as a loss is.

  Args:
    powers: f64[..., K], of amounts.
    means: f64[K], mean losses.
    counts: f64[K], number of losses of each mean.

  Returns:
    Scale, floor, and the sum of squared misfits times counts, each f64[...].
  """
  weight = counts.sum()
  mean_power, mean_loss = (powers * counts).sum(-1) / weight, means @ counts / weight
  centred = powers - mean_power[..., None]
  scale = centred @ (counts * (means - mean_loss)) / np.maximum(
      centred ** 2 @ counts, np.finfo(float).tiny)
  floor = mean_loss - scale * mean_power
  without_floor = powers @ (counts * means) / (powers ** 2 @ counts)
  scale = np.where(floor < 0, without_floor, scale)
  floor = np.maximum(floor, 0)
  misfit = scale[..., None] * powers + floor[..., None] - means
  return scale, floor, misfit ** 2 @ counts


def counted(losses: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the number and the mean of the losses with each amount, both f64[K]."""
  return (np.array([len(found) for found in losses], float),
          np.array([found.mean() for found in losses]))


def within(losses: Sequence[np.ndarray]) -> float:
  """Returns the sum of squares of losses around the mean of their amount."""
  return float(sum(((found - found.mean()) ** 2).sum() for found in losses))


def _errors(
    logs: np.ndarray, centre: float, counts: np.ndarray, scale: float, exponent: float,
    variance: float) -> tuple[float, float, float]:
  """Standard errors of scale, exponent and floor, of the law linearized at the fit.

  Args:
    logs: f64[K], logarithms of amounts, less `centre`.
    centre: Their mean, at which `scale` holds; its error is that of an amount of 1.
    counts: f64[K], number of losses with each amount.
    scale: Params of the fitted law, the scale at `centre`.
    exponent: See `scale`.
    variance: Of the losses around the law.
  """
  powers = np.exp(-exponent * logs)
  slopes = np.stack([powers, -scale * logs * powers, np.ones(len(logs))])
  covariance = np.linalg.pinv((counts * slopes) @ slopes.T) * variance
  # The scale with an amount of 1 is scale * exp(exponent * centre).
  slope = np.array([1.0, scale * centre, 0.0]) * math.exp(exponent * centre)
  # Without noise, rounding may leave a variance below 0.
  return (math.sqrt(max(slope @ covariance @ slope, 0.0)),
          math.sqrt(covariance[1, 1]), math.sqrt(covariance[2, 2]))
