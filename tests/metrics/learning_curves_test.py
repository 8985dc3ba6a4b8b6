"""Tests for what two learning curves say of each other."""

import pytest

from transfer_gen.metrics import learning_curves

_SLOW = [(10, 4.0), (20, 3.0), (40, 2.0)]


def test_the_gap_is_the_area_over_the_steps_that_both_were_validated_in():
  fast = [(5, 3.0), (15, 2.0), (30, 1.0)]

  # From 10 to 30: differences of 1.5, 1.5, 4/3 and 1.5 at 10, 15, 20 and 30.
  area = 5 * 1.5 + 5 * (1.5 + 4 / 3) / 2 + 10 * (4 / 3 + 1.5) / 2
  assert learning_curves.gap(fast, _SLOW) == pytest.approx(area / 20)
  assert learning_curves.gap(_SLOW, fast) == pytest.approx(-area / 20)


def test_curves_without_a_common_range_have_no_gap():
  assert learning_curves.gap([(1, 2.0)], _SLOW) is None
  assert learning_curves.gap([(40, 2.0), (50, 1.0)], _SLOW) is None


@pytest.mark.parametrize("goal, found", [
    (4.5, (0, 10)), (3.0, (10, 20)), (2.9, (20, 40)), (1.9, None)])
def test_a_goal_is_reached_between_two_validations(goal, found):
  assert learning_curves.reached(_SLOW, goal) == found


def test_a_source_pays_from_the_first_number_of_targets_that_costs_no_more():
  assert learning_curves.pays_from(1000.0, 30.0, 240.0) == 5
  shares = [learning_curves.spread(1000.0, 30.0, 240.0, k) for k in (1, 4, 5)]
  assert shares[0] == pytest.approx(1030 / 240) and shares[1] > 1 >= shares[2]
  assert learning_curves.pays_from(1000.0, 240.0, 240.0) is None
