"""Tests for folding the lines of a table that differ only in their numbers."""

import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from transfer_gen.transfer import fold

_NAMES = st.builds(
    lambda stem, layer, leaf: f"{stem}_{layer}/{leaf}", st.sampled_from("ab"),
    st.integers(0, 12), st.sampled_from(("w", "b", "expert_0/w", "expert_1/w")))


def _expanded(name):
  """Returns every name that a folded name stands for."""
  found = re.search(r"\{([^}]*)\}", name)
  if not found:
    return [name]
  numbers = found[1].split(",")
  if ".." in found[1]:
    low, high = map(int, found[1].split(".."))
    numbers = range(low, high + 1)
  return [full for number in numbers
          for full in _expanded(f"{name[:found.start()]}{number}{name[found.end():]}")]


@given(st.dictionaries(_NAMES, st.sampled_from(("copy", "fresh"))))
def test_folding_counts_every_line_exactly_once(hows):
  folded = fold.fold([(name, how) for name, how in hows.items()])

  found = [(name, how, times) for times, (name, how) in folded]
  assert {name: how for short, how, _ in found for name in _expanded(short)} == hows
  assert sum(times for *_, times in found) == len(hows)
  for short, _, times in found:
    assert len(_expanded(short)) == times


@pytest.mark.parametrize("sources, shown", [
    ((0, 1, 2, 3), "b_{0..3}"), ((4, 5, 6, 7), "b_{4..7}"),
    ((0, 0, 1, 1), "b_{0,0,1,1}"), ((3, 3, 3, 3), "b_3"),
    ((3, 0, 1, 2), "b_{3,0,1,2}")])
def test_a_linked_column_lists_numbers_in_the_order_of_the_names(sources, shown):
  lines = [(f"a_{i}", f"b_{source}", "copy") for i, source in enumerate(sources)]

  assert fold.fold(lines, linked=2) == [(4, ("a_{0..3}", shown, "copy"))]


def test_long_number_lists_without_a_pattern_are_shortened():
  lines = [(f"a_{i}", f"b_{i // 2}") for i in range(48)]

  assert fold.fold(lines, linked=2) == [
      (48, ("a_{0..47}", "b_{0,0,1,1,2,2,..,23}"))]


def test_only_the_names_may_differ_unless_more_cells_are_linked():
  lines = [("a_0", "x_0"), ("a_1", "x_0"), ("a_2", "x_1")]

  assert fold.fold(lines) == [(2, ("a_{0,1}", "x_0")), (1, ("a_2", "x_1"))]
