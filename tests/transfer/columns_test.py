"""Tests for tables that are laid out within the width of a terminal."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from transfer_gen.transfer import columns

_CELLS = st.text("abc_{}.0/, ()", max_size=60).map(str.strip)
_TABLES = st.integers(1, 7).flatmap(lambda count: st.lists(
    st.tuples(*[_CELLS] * count), min_size=1, max_size=6))


@given(_TABLES, st.integers(72, 120))
def test_a_table_keeps_every_character_and_no_line_exceeds_its_width(lines, width):
  rows = columns.fit(lines, width)

  assert max(len(line) for printed in rows for line in printed) <= width
  letters = lambda texts: sorted("".join(texts).replace(" ", ""))
  assert [*map(letters, rows)] == [*map(letters, lines)]


def test_a_table_that_fits_is_the_aligned_one():
  lines = [("leaf", "leaves", "how"), ("a_{0..9}", "10", "copy, and more words")]

  assert [line for [line] in columns.fit(lines)] == columns.aligned(lines)


def test_words_stay_whole_and_the_rarest_long_cell_is_broken_first():
  names = [(f"decoder/block_{i}/attention/kernel", "copy") for i in range(9)]
  lines = [("leaf", "how"), *names, ("head", "one long remark " * 4)]

  *rows, last = columns.fit(lines, width=60)

  assert all(len(printed) == 1 for printed in rows)
  assert len(last) > 1 and set(" ".join(last).split()) == {
      "head", "one", "long", "remark"}


@pytest.mark.parametrize("text, expected", [
    ("short", ["short"]), ("", [""]),
    ("group all: 3 leaves", ["group all: 3", "  leaves"])])
def test_long_lines_continue_indented(text, expected):
  assert columns.wrap(text, 12) == expected
