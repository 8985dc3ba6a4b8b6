"""Learning curves of two runs: the area between them, and when one reaches the other.

A curve is a list of (step, value), one for each validation, in ascending order, where a
low value is good. Nothing is known between two validations, and no function here claims
to know.
"""

from collections.abc import Sequence
import math

import numpy as np

Curve = Sequence[tuple[int, float]]


def gap(treated: Curve, control: Curve) -> float | None:
  """Returns the area between two curves, divided by the steps that it spans.

  It is the integral of control minus treated over the steps at which both were
  validated, from the first to the last, by the trapezoid rule over all validations of
  either (Taylor and Stone, 2009, compare such areas). Above 0 the treated run was
  better on average. None if the curves have no range of steps in common.
  """
  steps = np.unique([step for curve in (treated, control) for step, _ in curve])
  start = max(curve[0][0] for curve in (treated, control))
  end = min(curve[-1][0] for curve in (treated, control))
  steps = steps[(steps >= start) & (steps <= end)]
  if end <= start:
    return None
  first, second = (np.interp(steps, *np.transpose(curve))
                   for curve in (treated, control))
  return float(np.trapezoid(second - first, steps) / (end - start))


def reached(treated: Curve, goal: float) -> tuple[int, int] | None:
  """Returns the steps between which a curve first has a value of `goal` or lower.

  Args:
    treated: The curve.
    goal: The value, such as the best one of a control.

  Returns:
    The validation before, 0 if there is none, and the validation that has it: it came
    after the first of them, and not later than the second. None if no validation has
    it.
  """
  before = 0
  for step, value in treated:
    if value <= goal:
      return before, step
    before = step
  return None


def spread(source: float, treated: float, control: float, targets: int) -> float:
  """Returns the cost of a target with its share of the source, over that of a control.

  It is (source / targets + treated) / control.

  Args:
    source: Cost of the source, in any unit: tokens, FLOPs or seconds.
    treated: Cost of a treated run, up to the control's best value, in that unit.
    control: Cost of a control up to there.
    targets: Number of targets that start from the source.
  """
  return (source / targets + treated) / control


def pays_from(source: float, treated: float, control: float) -> int | None:
  """Returns the smallest number of targets whose `spread` is at most 1.

  None if no number is: then a treated run costs no less than its control.
  """
  saved = control - treated
  return math.ceil(source / saved) if saved > 0 else None
