"""Lays out text for a terminal: cells in columns, and long lines in several."""

from collections.abc import Sequence
import functools
import re
import textwrap

WIDTH = 100  # Characters in a line.
_GAP = "  "
_INDENT = "  "  # Of the further lines of a cell, so that none reads as a row.
_NARROWEST = 8  # A column is not made narrower than this.


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  """Pads cells to columns; the column `leaves` is aligned to the right.

  >>> aligned([("leaf", "leaves", "how"), ("a_{0..9}", "10", "copy")])
  ['leaf      leaves  how', 'a_{0..9}      10  copy']
  """
  widths = _widths(lines)
  right = [name == "leaves" for name in lines[0]]
  return [_GAP.join(c.rjust(w) if r else c.ljust(w)
                    for c, w, r in zip(line, widths, right)).rstrip() for line in lines]


def fit(lines: Sequence[Sequence[str]], width: int = WIDTH) -> list[list[str]]:
  r"""Pads cells to columns, and breaks the widest columns until the table fits.

  Cells are broken after a slash, comma or space where they can be, and so that few
  more lines are printed.

  >>> for row in fit([("leaf", "leaves", "how"), ("layer_{0..9}/key", "10",
  ...                                             "grown 8 to 16")], width=30):
  ...   print(*row, sep="\n")
  leaf           leaves  how
  layer_{0..9}/      10  grown 8
    key                    to 16

  Args:
    lines: Rows of the same number of cells; the first one is the header.
    width: The most characters in a line, at least 10 for each column.

  Returns:
    The printed lines of each row.
  """
  widths = _limited(lines, width - len(_GAP) * (len(lines[0]) - 1))
  pieces, counts = [], []
  for line in lines:
    cells = list(map(_broken, line, widths))
    counts.append(max(map(len, cells)))
    pieces += [tuple(cell[i] if i < len(cell) else "" for cell in cells)
               for i in range(counts[-1])]
  printed = iter(aligned(pieces))
  return [[next(printed) for _ in range(count)] for count in counts]


def wrap(text: str, width: int = WIDTH) -> list[str]:
  """Breaks a line at spaces; further lines are indented."""
  return textwrap.wrap(text, width, subsequent_indent=_INDENT,
                       break_on_hyphens=False) or [""]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
  return [max(map(len, column)) for column in zip(*lines)]


# A column that grows narrower by one leaves the others as they were, so nearly all that
# a step of the loop asks for is known from the step before. Hence the caches.
def _limited(lines: Sequence[Sequence[str]], room: int) -> list[int]:
  """Returns the width of each column, so that their sum is at most `room`."""
  widths, columns = _widths(lines), [*zip(*lines)]
  heights = functools.cache(lambda i, width: [
      len(_broken(cell, width)) for cell in columns[i]])
  cut = functools.cache(lambda i, width: sum(
      len(part.rstrip()) > width for cell in columns[i] for part in _parts(cell)))

  def cost(i: int) -> tuple[int, int, int]:
    """How much there would be to read if a column had one character less."""
    tried = [w - (i == j) for j, w in enumerate(widths)]
    height = sum(map(max, zip(*map(heights, range(len(tried)), tried))))
    return sum(map(cut, range(len(tried)), tried)), height, -widths[i]

  # The cheapest character goes first: words are cut last, and many rows are broken only
  # after a few others were.
  while sum(widths) > room:
    widths[min((i for i, w in enumerate(widths) if w > _NARROWEST), key=cost)] -= 1
  # What breaks at words leaves room, which the columns get back in turn.
  for i, natural in enumerate(_widths(lines)):
    used = [max(len(line) for cell in column for line in _broken(cell, width))
            for column, width in zip(columns, widths)]
    widths[i] = min(natural, used[i] + room - sum(used))
  return widths


# A separator stays with the part before it: a line that ends in a slash or a comma
# shows that its cell goes on.
def _parts(cell: str) -> list[str]:
  """Returns the parts of a cell between which it may be broken."""
  return re.findall(r"[^/, ]+[/, ]*|[/, ]+", cell)


def _broken(cell: str, width: int) -> list[str]:
  """Breaks a cell into lines of at most `width` characters."""
  return broken(_parts(cell), width)


def broken(parts: Sequence[str], width: int) -> list[str]:
  """Breaks a text between its parts into lines of a width; no character is lost.

  >>> broken(["english_", "to_", "german_", "100"], 12)
  ['english_to_', '  german_100']

  Args:
    parts: The text, in pieces.
    width: The most characters in a line, more than the indent of two.
  """
  text, lines = "".join(parts), [""]
  for part in parts if len(text) > width else [text]:
    if lines[-1].strip() and len(lines[-1] + part.rstrip()) > width:
      lines.append(_INDENT)
    lines[-1] += part
    while len(lines[-1].rstrip()) > width:  # A part that is too long by itself.
      lines[-1:] = [lines[-1][:width], _INDENT + lines[-1][width:]]
  return [line.rstrip() for line in lines]
