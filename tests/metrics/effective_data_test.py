"""Tests for effective data and for power laws."""

import numpy as np
import pytest
from scipy import optimize

from transfer_gen.metrics import effective_data
from transfer_gen.metrics import power_law

_AMOUNTS = np.geomspace(1e3, 1e5, 6)


def _loss(amount, exponent=0.3):
  return 30.0 * amount ** -exponent + 1.5


def _control(noise=0.0, amounts=_AMOUNTS, seeds=3):
  generator = np.random.default_rng(3)
  return [(amount, _loss(amount) + noise * generator.normal(size=seeds))
          for amount in amounts]


def test_without_noise_the_law_and_the_amount_are_found_exactly():
  found = effective_data.effective(_control(), [_loss(2e4)] * 2)

  assert found["amount"] == pytest.approx(2e4, rel=1e-3) and found["bound"] == ""
  assert found["method"] == "power law" and found["amounts"] == 6
  assert found["law"]["exponent"] == pytest.approx(0.3, rel=1e-3)
  assert found["law"]["floor"] == pytest.approx(1.5, rel=1e-3)
  assert found["low"] == pytest.approx(2e4, rel=0.05)
  assert found["high"] == pytest.approx(2e4, rel=0.05)


def test_law_and_errors_are_those_of_a_general_fit():
  control = _control(noise=0.02)
  amounts = np.repeat(_AMOUNTS, 3)

  law = power_law.fit(_AMOUNTS, [losses for _, losses in control])

  best, covariance = optimize.curve_fit(
      lambda log, scale, exponent, floor: scale * np.exp(-exponent * log) + floor,
      np.log(amounts), np.concatenate([losses for _, losses in control]),
      p0=(30.0, 0.3, 1.5))
  scale, exponent, floor = best
  assert (law.scale, law.exponent, law.floor) == pytest.approx(
      (scale, exponent, floor), rel=1e-2)
  assert (law.scale_error, law.exponent_error, law.floor_error) == pytest.approx(
      np.sqrt(np.diag(covariance)), rel=3e-2)


def test_the_interval_ends_where_another_amount_fits_significantly_worse():
  control, treated = _control(noise=0.02), _loss(2e4) + np.array([0.01, -0.01, 0.0])
  found = effective_data.effective(control, treated)

  # Brute force: all params are fitted by a general method, for one amount at a time.
  losses = np.concatenate([*(losses for _, losses in control), treated])

  def misfit(amount):
    logs = np.log(np.concatenate([np.repeat(_AMOUNTS, 3), np.full(3, amount)]))
    return optimize.least_squares(
        lambda x: x[0] * np.exp(-x[1] * (logs - 9)) + x[2] - losses,
        (2.0, 0.3, 1.5), xtol=1e-12, ftol=1e-12).cost

  least = misfit(found["amount"])
  freedom = len(losses) - 4
  for end in (found["low"], found["high"]):
    # F at 95% with 1 and 17 degrees of freedom, from a table.
    assert (misfit(end) / least - 1) * freedom == pytest.approx(4.451, rel=0.05)
  assert found["low"] < found["amount"] < found["high"]


@pytest.mark.parametrize("true, bound, low, high", [
    (1e3 / 3, "<", None, 1e3), (3e5, ">", 1e5, None)])
@pytest.mark.parametrize("amounts", [_AMOUNTS, _AMOUNTS[[0, -1]]])
def test_outside_of_what_was_measured_there_is_a_bound_and_no_number(
    amounts, true, bound, low, high):
  found = effective_data.effective(
      _control(noise=0.002, amounts=amounts), _loss(true) + np.array([0.002, -0.002]))

  assert found["amount"] is None and found["bound"] == bound
  assert (found["smallest"], found["largest"]) == pytest.approx((1e3, 1e5))
  assert (found["low"], found["high"]) == (
      low and pytest.approx(low), high and pytest.approx(high))


def test_a_loss_near_the_end_has_an_interval_that_is_open_there():
  found = effective_data.effective(
      _control(noise=0.05), _loss(9e4) + np.array([0.05, -0.05]))

  assert found["low"] < 9e4 and found["high"] is None


def test_a_run_below_every_floor_is_beyond_the_largest_amount():
  found = effective_data.effective(_control(noise=0.01), [0.5, 0.51])

  assert found["bound"] == ">" and found["low"] == pytest.approx(1e5)


def test_few_amounts_are_interpolated_over_the_logarithm():
  control = [(100.0, [3.0, 3.2]), (1000.0, [2.0, 2.2])]

  found = effective_data.effective(control, [2.6, 2.6])

  assert found["method"] == "interpolation" and "law" not in found
  assert found["amount"] == pytest.approx(10 ** 2.5)
  # Fieller's interval: the gap is 1 - share - 0.5, and its variance that of the means.
  share = (np.log10(found["high"]) - 2)
  variance = (2 * 0.1 ** 2 * 2 + 0) / 3 * (
      ((1 - share) ** 2 + share ** 2) / 2 + 1 / 2)
  assert (0.5 - share) ** 2 == pytest.approx(3.1824 ** 2 * variance, rel=0.01)


def test_beside_a_law_the_interpolated_amount_is_known():
  control = [(10.0, [4.0]), (100.0, [3.0]), (1000.0, [2.5]), (10000.0, [2.25])]

  found = effective_data.effective(control, [2.75])
  # Below all losses that were measured, but above the floor of the law.
  beyond = effective_data.effective(control, [2.24])

  assert found["method"] == "power law" and found["bound"] == ""
  assert found["interpolated"] == pytest.approx(10 ** 2.5)
  assert found["amount"] != pytest.approx(found["interpolated"], rel=0.01)
  assert beyond["interpolated"] is None


def test_a_curve_that_rises_is_made_flat_and_a_single_seed_has_no_interval():
  control = [(10.0, [3.0]), (20.0, [2.0]), (40.0, [2.4]), (80.0, [1.0])]

  found, above, below = (effective_data.interpolated(
      np.array([10.0, 20, 40, 80]), [np.array(losses) for _, losses in control], loss)
                         for loss in (2.2, 3.1, 0.9))
  single = effective_data.effective([*control[:2]], [2.5])

  assert (found, above, below) == (20.0, 0.0, np.inf)
  assert single["amount"] == pytest.approx(10 * 2 ** 0.5)
  assert single["low"] is None and single["high"] is None


def test_losses_that_do_not_fall_follow_no_law():
  rising = [(amount, [1.0 + amount / 1e5]) for amount in _AMOUNTS]

  found = effective_data.effective(rising, [1.0])

  assert found["method"] == "interpolation" and found["bound"] == ">"


def test_a_floor_is_no_lower_than_0():
  law = power_law.fit(_AMOUNTS, [np.array([6.0 - 0.5 * np.log(amount)])
                                 for amount in _AMOUNTS])

  # Straight over the logarithm would need a floor far below: a loss is not negative.
  assert law.floor == 0 and law.amount(1.0) < np.inf
  best, _ = optimize.curve_fit(
      lambda log, scale, exponent: scale * np.exp(-exponent * log), np.log(_AMOUNTS),
      6.0 - 0.5 * np.log(_AMOUNTS), p0=(10.0, 0.2))
  assert (law.scale, law.exponent) == pytest.approx(best, rel=1e-3)


def test_a_run_below_the_fitted_floor_is_compared_with_laws_that_it_could_lie_on():
  generator = np.random.default_rng(0)
  # A curve that is flat at its end, so that many amounts have nearly one loss.
  control = [(amount, 1.5 + 3e3 / amount + 0.1 * generator.normal(size=3))
             for amount in _AMOUNTS]
  floor = power_law.fit(_AMOUNTS, [losses for _, losses in control]).floor
  treated = floor - 0.1 + np.array([0.1, -0.1, 0.0])

  found = effective_data.effective(control, treated)

  losses = np.concatenate([*(losses for _, losses in control), treated])

  def misfit(own):
    """Fits all params by a general method, given the treated run's own amount."""
    logs = np.log(np.concatenate([np.repeat(_AMOUNTS, 3), np.full(3, own)]))
    return optimize.least_squares(
        lambda x: x[0] * np.exp(-x[1] * (logs - 7)) + x[2] - losses, (3.0, 1.0, 1.5),
        bounds=([0, 0.01, 0], 99), xtol=1e-12, ftol=1e-12).cost

  # F at 95% with 1 and 17 degrees of freedom, from a table.
  assert found["bound"] == ">" and found["high"] is None
  assert found["low"] < 1e5
  assert (misfit(found["low"]) / misfit(1e99) - 1) * 17 == pytest.approx(
      4.451, rel=0.05)


def test_losses_without_any_noise_have_an_interval_of_no_width():
  # Several, because rounding decides whether the gap at the amount is exactly 0.
  for last, loss, first, largest in np.random.default_rng(0).uniform(
      [1.0, 2.5, 3.0, 500.0], [2.4, 2.9, 4.0, 9000.0], (30, 4)):
    found = effective_data.effective(
        [(100.0, [first] * 2), (largest, [last] * 2)], [loss] * 2)

    assert found["low"] == pytest.approx(found["amount"], rel=0.03)
    assert found["high"] == pytest.approx(found["amount"], rel=0.03)
