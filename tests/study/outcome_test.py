"""Tests for the outcome of one training of a study."""

import pytest

from transfer_gen.study import outcome


@pytest.mark.parametrize("losses, still, drawn", [
    ([3.0, 2.0, 1.5, 1.4, 1.38], True, False),  # 1.4% over the last fifth.
    ([3.0, 2.0, 1.5, 1.4, 1.389], False, False),  # 0.8%.
    ([3.0, 2.0, 1.5, 1.4, 1.5], False, False),
    ([3.0, 2.0, 1.5], False, False),  # It has stopped early, as nothing got better.
    # Losses of drawings have no zero: shares of them would say the opposite.
    ([0.5, -0.2, -0.4, -0.5, -0.52], True, True),
    ([0.5, -0.2, -0.4, -0.5, -0.48], False, True),
    ([0.5, 0.4, 0.2, 0.1, 0.095], False, True),
    ([0.5, 0.4, 0.2, 0.0, -0.1], True, True),
])
def test_a_run_still_improves_if_its_last_fifth_brought_a_hundredth(
    losses, still, drawn):
  curve = [{"step": 20 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]

  assert outcome._improving(curve, 100, drawn) == still
