"""Plain text: documents are lines, paragraphs or whole files."""

from collections.abc import Iterator, Sequence
import dataclasses
import re
import statistics

from transfer_gen.data.readers import blobs

Example = blobs.Example
# A line with its end. `str.splitlines` would also split at form feeds and U+2028, which
# are part of a text.
_LINE = re.compile("[^\n]*\n|[^\n]+")
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


def layout(texts: Sequence[str]) -> Layout:
  """Decides from texts what a document is in them.

  Blank lines divide a text into parts. Where parts have several lines (from 1.5 to 20
  on average), they are paragraphs if their median is at least 200 characters. If it is
  less, they are pieces of one text, such as the speeches of a play, and a file is one
  document. Otherwise each line is a document, unless lines are wrapped: if more than
  half of them fill at least 80% of one width from 40 to 120 characters, they belong
  together, and a file is one document.

  Args:
    texts: Contents of the files; all are read alike.
  """
  parts = [part for text in texts for part in _parts(text)]
  lines = [len(line) for part in parts for line in part]
  if len(parts) > len(texts) and (
      _FEWEST_LINES <= len(lines) / len(parts) <= _MOST_LINES):
    median = int(statistics.median(sum(map(len, part)) for part in parts))
    facts = f"{len(parts):,} parts between blank lines, {median} characters by median"
    if median >= _PART_CHARS:
      return Layout("paragraph", facts)
    return Layout("file", f"{facts}, so they are pieces of one text")
  if width := _wrapped(lines):
    return Layout("file", f"lines are wrapped at {width} characters")
  return Layout("line", f"{len(lines):,} lines")


def read(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields documents with one column, `text`, which keeps its line ends.

  Raises:
    errors.UserError: If the file is damaged or not UTF-8.
  """
  return _READERS[options.unit](str(blob), blob.text())


def split_lines(text: str) -> list[str]:
  r"""Splits a text at \n and \r\n only; form feeds and U+2028 stay in lines."""
  lines = text.replace("\r\n", "\n").split("\n")
  return lines[:-1] if lines[-1] == "" else lines


def _parts(text: str) -> Iterator[list[str]]:
  held: list[str] = []
  for line in split_lines(text):
    if line.strip():
      held.append(line)
    elif held:
      yield held
      held = []
  if held:
    yield held


def _wrapped(lengths: Sequence[int]) -> int:
  """Returns the width that most lines are filled to; 0 if there is none."""
  if not lengths:
    return 0
  # Not the longest line of all: a few, such as addresses, cannot be wrapped.
  width = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
  filled = sum(0.8 * width <= length <= width for length in lengths)
  fits = _NARROWEST <= width <= _WIDEST and len(lengths) > 1
  return width if fits and filled > len(lengths) / 2 else 0


def _whole(name: str, text: str) -> Iterator[Example]:
  if text.strip():
    yield f"{name}:1", {"text": text}


def _lines(name: str, text: str) -> Iterator[Example]:
  if not text.strip():
    return
  for number, line in enumerate(_LINE.findall(text), 1):
    yield f"{name}:{number}", {"text": line}


def _paragraphs(name: str, text: str) -> Iterator[Example]:
  start, held = 1, []
  for number, (_, example) in enumerate(_lines(name, text), 1):
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
