"""Plain text: documents are lines, paragraphs or whole files."""

from collections import Counter
from collections.abc import Iterable, Iterator
import dataclasses

from transfer_gen.data.readers import blobs

Example = blobs.Example
# Thresholds of `layout`. The speeches in a play have 80 characters by median, dialogue
# in a novel 130, program code 180; notes, abstracts and stories have more.
_PART_CHARS = 200
_FEWEST_LINES, _MOST_LINES = 1.5, 20  # Of a part, on average.
_NARROWEST, _WIDEST = 40, 120  # Characters of lines that an editor wrapped.


@dataclasses.dataclass(frozen=True)
class Layout:
  """How plain text is divided into documents.

  Attributes:
    unit: "line", "paragraph" or "file".
    reason: What in the text says so, for the line that is printed.
  """
  unit: str
  reason: str


def layout(texts: Iterable[Iterable[str]]) -> Layout:
  """Decides from texts what a document is in them.

  Blank lines divide a text into parts. Where parts have several lines (from 1.5 to 20
  on average), they are paragraphs if their median is at least 200 characters. If it is
  less, they are pieces of one text, such as the speeches of a play, and a file is one
  document. Otherwise each line is a document, unless lines are wrapped: if more than
  half of them fill at least 80% of one width from 40 to 120 characters, they belong
  together, and a file is one document.

  Args:
    texts: Lines of each file; all files are read alike. Lines are counted by their
      lengths and not held.
  """
  sizes: Counter[int] = Counter()  # Of parts, in characters.
  lines: Counter[int] = Counter()
  files = 0
  for text in texts:
    files += 1
    for part in _parts(text):
      sizes[sum(part)] += 1
      lines.update(part)
  parts, count = sizes.total(), lines.total()
  if parts > files and _FEWEST_LINES <= count / parts <= _MOST_LINES:
    # As `statistics.median` of the sizes, cut to an integer.
    median = (_at(sizes, (parts - 1) // 2) + _at(sizes, parts // 2)) // 2
    facts = f"{parts:,} parts between blank lines, {median} characters by median"
    if median >= _PART_CHARS:
      return Layout("paragraph", facts)
    return Layout("file", f"{facts}, so they are pieces of one text")
  if width := _wrapped(lines):
    return Layout("file", f"lines are wrapped at {width} characters")
  return Layout("line", f"{count:,} lines")


def read(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields documents with one column, `text`, which keeps its line ends.

  Raises:
    errors.UserError: If the file is damaged or not UTF-8.
  """
  name, lines = str(blob), blob.lines(options.held)
  if options.unit == "file" and not options.held:
    return _blocks(name, lines)
  return _READERS[options.unit](name, lines)


def split_lines(text: str) -> list[str]:
  r"""Splits a text at \n and \r\n only; form feeds and U+2028 stay in lines."""
  lines = text.replace("\r\n", "\n").split("\n")
  return lines[:-1] if lines[-1] == "" else lines


def without_ends(lines: Iterable[str]) -> Iterator[str]:
  r"""Yields lines without the \n or \r\n that ends them."""
  return (line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line
          for line in lines)


def _parts(lines: Iterable[str]) -> Iterator[list[int]]:
  """Yields the lengths of the lines of each part."""
  held: list[int] = []
  for line in without_ends(lines):
    if line.strip():
      held.append(len(line))
    elif held:
      yield held
      held = []
  if held:
    yield held


def _wrapped(lengths: Counter[int]) -> int:
  """Returns the width that most lines are filled to; 0 if there is none."""
  count = lengths.total()
  if count < 2:
    return 0
  # Not the longest line of all: a few, such as addresses, cannot be wrapped.
  width = _at(lengths, int(0.95 * (count - 1)))
  filled = sum(number for length, number in lengths.items()
               if 0.8 * width <= length <= width)
  return width if _NARROWEST <= width <= _WIDEST and filled > count / 2 else 0


def _at(counted: Counter[int], place: int) -> int:
  """Returns the value at a place among all that were counted, in ascending order."""
  for value in sorted(counted):
    place -= counted[value]
    if place < 0:
      return value
  raise IndexError(place)


def _whole(name: str, lines: Iterable[str]) -> Iterator[Example]:
  text = "".join(lines)
  if text.strip():
    yield f"{name}:1", {"text": text}


def _blocks(name: str, lines: Iterable[str]) -> Iterator[Example]:
  """Yields a long text in blocks, which begin where lines do."""
  start, size, held = 1, 0, []
  for number, (_, example) in enumerate(_lines(name, lines), 1):
    held.append(example["text"])
    size += len(held[-1])
    if size >= blobs.BLOCK:
      yield f"{name}:{start}", {"text": "".join(held)}
      start, size, held = number + 1, 0, []
  if held:
    yield f"{name}:{start}", {"text": "".join(held)}


def _lines(name: str, lines: Iterable[str]) -> Iterator[Example]:
  blank: list[str] = []  # Lines before the first that is not: a text of such is empty.
  number = 0
  for line in lines:
    if not number and not line.strip():
      blank.append(line)
      continue
    for one in (*blank, line):
      number += 1
      yield f"{name}:{number}", {"text": one}
    blank = []


def _paragraphs(name: str, lines: Iterable[str]) -> Iterator[Example]:
  start, held = 1, []
  for number, (_, example) in enumerate(_lines(name, lines), 1):
    line = example["text"]
    # A document ends where text follows a blank line, so that all blank lines between
    # belong to the one before, as `newline=keep` promises.
    if held and line.strip() and not held[-1].strip():
      yield f"{name}:{start}", {"text": "".join(held)}
      start, held = number, []
    held.append(line)
  if held:
    yield f"{name}:{start}", {"text": "".join(held)}


_READERS = {"line": _lines, "paragraph": _paragraphs, "file": _whole}
