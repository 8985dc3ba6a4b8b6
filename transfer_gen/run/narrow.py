"""Tables, sentences and texts beside names, for a terminal of 80 columns."""

from collections.abc import Iterator, Sequence
import re
import textwrap

from transfer_gen.transfer import columns

WIDTH = 80  # Characters in a line.
_GAP = "  "
_INDENT = "  "  # Of the further lines of a name, so that none reads as a row.
_NAME = 20  # A longer name gets at least so many characters in a line of a table.
_LABEL = 24  # A longer name beside a text is broken.


def table(
    rows: Sequence[Sequence[str]], keys: int = 1, width: int = WIDTH) -> list[str]:
  """Returns the lines of a table: the first column left-aligned, the others right.

  If they are too wide for a line, headers are broken, then names in the first column.
  What has no place beside the others goes on in another table below.

  >>> for line in table([("run", "best step", "test"), ("scratch_100", "40", "1.25"),
  ...                    ("scratch_10", "30", "2.25")], width=24):
  ...   print(line)
  run          best  test
               step
  scratch_100    40  1.25
  scratch_10     30  2.25

  Args:
    rows: Rows of the same number of cells; the first one is the header.
    keys: Number of columns at the left that say what a row is about.
    width: The most characters in a line.
  """
  names = max(len(row[0]) for row in rows)
  natural = [max(len(row[i]) for row in rows) for i in range(1, len(rows[0]))]
  if names + sum(len(_GAP) + one for one in natural) <= width:
    return _lines(rows, [names, *natural])
  names, *least = [
      max([len(row[i]) for row in rows[1:]] + list(map(len, _words(rows[0][i]))))
      for i in range(len(rows[0]))]
  lines: list[str] = []
  for some in _blocks(least, keys - 1, width - min(names, _NAME)):
    widths = [least[i] for i in some]
    room = width - sum(len(_GAP) + one for one in widths)
    part = [(row[0], *(row[1 + i] for i in some)) for row in rows]
    lines += [*([""] if lines else []), *_lines(part, [min(names, room), *widths])]
  return lines


def sentence(text: str, width: int = WIDTH) -> list[str]:
  """Breaks a sentence at spaces; a longer word is broken, but a path is not."""
  lines = textwrap.wrap(text, width, subsequent_indent=_INDENT, break_on_hyphens=False,
                        break_long_words=False)
  return [part for line in lines for part in (
      [line] if "/" in line else broken(line, width))] or [""]


def beside(texts: Sequence[tuple[str, str]], width: int = WIDTH) -> list[str]:
  """Returns names, and beside each its text, in as many lines as it takes."""
  label = min(max((len(name) for name, _ in texts), default=0), _LABEL)
  lines = []
  for name, text in texts:
    left = broken(name, label)
    right = textwrap.wrap(text, width - label - len(_GAP)) or [""]
    lines += [f"{one.ljust(label)}{_GAP}{other}".rstrip()
              for one, other in _side_by_side(left, right)]
  return lines


def broken(name: str, width: int) -> list[str]:
  """Breaks a name into lines of at most `width` characters; none is lost.

  >>> broken("english_to_german_100", 12)
  ['english_to_', '  german_100']
  """
  return columns.broken(
      re.findall(r"[^/_.,\- ]+[/_.,\- ]*|[/_.,\- ]+", name), width)


def _words(header: str) -> list[str]:
  """The parts of a header between which it may be broken."""
  return re.findall(r"[^/ ]+/?", header) or [""]


def _blocks(
    widths: Sequence[int], keys: int, room: int) -> Iterator[list[int]]:
  """Yields the columns of each table, by their indices, so that each has room."""
  taken = list(range(keys))
  for i in range(keys, len(widths)):
    used = sum(len(_GAP) + widths[j] for j in taken)
    if len(taken) > keys and used + len(_GAP) + widths[i] > room:
      yield taken
      taken = list(range(keys))
    taken.append(i)
  yield taken


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
  lines = []
  for number, row in enumerate(rows):
    cells = [_header(cell, one) for cell, one in zip(row, widths)] if (
        number == 0) else [broken(row[0], widths[0]), *([cell] for cell in row[1:])]
    for parts in _side_by_side(*cells):
      lines.append(_GAP.join(
          part.ljust(one) if i == 0 else part.rjust(one)
          for i, (part, one) in enumerate(zip(parts, widths))).rstrip())
  return lines


def _header(header: str, width: int) -> list[str]:
  if len(header) <= width:
    return [header]
  lines = [""]
  for word in _words(header):
    joined = f"{lines[-1]}{'' if lines[-1].endswith('/') else ' '}{word}".strip()
    lines[-1:] = [joined] if len(joined) <= width else [lines[-1], word]
  return [line for line in lines if line] or [""]


def _side_by_side(*cells: Sequence[str]) -> Iterator[tuple[str, ...]]:
  """Yields the lines of cells of several lines."""
  for i in range(max(map(len, cells))):
    yield tuple(cell[i] if i < len(cell) else "" for cell in cells)
