"""Folds lines of a table whose names differ only in their numbers into one line."""

from collections.abc import Iterator, Sequence
import re

from transfer_gen import tree

_NUMBER = re.compile(r"\d+")
_SHOWN = 8  # How many numbers of a list without a pattern are printed.


def fold(
    lines: Sequence[Sequence[str]], linked: int = 1
) -> list[tuple[int, tuple[str, ...]]]:
  """Folds lines of cells; the first cell of a line is a name that is unique.

  Numbers without a pattern are printed in the order of the names.

  >>> fold([("a_0/b", "x_0"), ("a_1/b", "x_0"), ("a_2/b", "x_1")], linked=2)
  [(3, ('a_{0..2}/b', 'x_{0,0,1}'))]

  Args:
    lines: Lines with the same number of cells.
    linked: How many of the first cells may differ in their numbers; the other cells
      must be equal for lines to be folded.

  Returns:
    The number of lines and the cells of each folded line, in the order in which they
    first occur.
  """
  alike: dict[tuple[str, ...], list[Sequence[str]]] = {}
  # NUL stands for the numbers, because no cell contains it.
  for line in lines:
    key = (*(_NUMBER.sub("\0", cell) for cell in line[:linked]), *line[linked:])
    alike.setdefault(key, []).append(line)
  return [(len(piece), _folded(piece, linked))
          for group in alike.values() for piece in _pieces(group)]


def _pieces(lines: list[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
  """Splits lines into pieces whose names `tree.fold` folds into one name."""
  if len(tree.fold(line[0] for line in lines)) == 1:
    yield lines
    return
  # As in `tree.fold`, names that are no full grid of their numbers are split by the
  # first number that varies; here the other cells have to follow.
  numbers = [_NUMBER.findall(line[0]) for line in lines]
  first = next(i for i, column in enumerate(zip(*numbers)) if len(set(column)) > 1)
  parts: dict[str, list[Sequence[str]]] = {}
  for line, found in zip(lines, numbers):
    parts.setdefault(found[first], []).append(line)
  for part in parts.values():
    yield from _pieces(part)


def _folded(lines: list[Sequence[str]], linked: int) -> tuple[str, ...]:
  first = lines[0]
  if len(lines) == 1:
    return tuple(first)
  names = [line[0] for line in lines]
  known = set(zip(*map(_NUMBER.findall, names)))
  cells = [_follow([line[i] for line in lines], known) for i in range(1, linked)]
  return (tree.fold(names)[0], *cells, *first[linked:])


def _follow(cells: list[str], known: set[tuple[str, ...]]) -> str:
  """Folds cells that share their texts; `known` are the columns of numbers in names."""
  # A set such as {0..5} says which number belongs to which name only if it runs along
  # with the names. Other numbers are listed one by one.
  between = _NUMBER.split(cells[0])
  shown = [
      column[0] if len(set(column)) == 1 else
      tree.fold(column)[0] if column in known or _rises(column) else _listed(column)
      for column in zip(*map(_NUMBER.findall, cells))]
  return "".join(t + n for t, n in zip(between, [*shown, ""]))


def _rises(column: Sequence[str]) -> bool:
  numbers = list(map(int, column))
  return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _listed(column: Sequence[str]) -> str:
  if len(column) > _SHOWN:
    # The last one stays, so that a reader sees where the list ends.
    column = [*column[:_SHOWN - 2], "..", column[-1]]
  return f"{{{','.join(column)}}}"
