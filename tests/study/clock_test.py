"""Tests for the time that a study takes over all its calls."""

import pytest

from transfer_gen import errors
from transfer_gen.study import clock


def test_the_calls_before_stay_and_one_that_is_killed_counts_as_far_as_it_was_stored(
    tmp_path):
  first = clock.Clock(tmp_path / "w")
  stored = first.seconds()
  second = clock.Clock(tmp_path / "w")
  third = clock.Clock(tmp_path / "w")  # Beside the second one, which stored nothing.

  assert second.seconds()[:1] == stored and len(second.seconds()) == 2
  assert len(third.seconds()) == 2
  assert len(clock.Clock(tmp_path / "w").seconds()) == 3


@pytest.mark.parametrize("text", ["{", "{}", '["a"]', "[-1]"])
def test_a_damaged_file_is_named(tmp_path, text):
  (tmp_path / "calls.json").write_text(text)

  with pytest.raises(errors.UserError, match="calls.json.* Delete it: nothing"):
    clock.Clock(tmp_path)
