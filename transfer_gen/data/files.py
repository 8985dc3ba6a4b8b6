"""Reads the user's own text files: one dict of columns for each document.

Files are UTF-8 and may be compressed (`.gz`). Each file is held in memory as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
import csv
import gzip
import io
import json
import os
import re
from typing import Any

from etils import epath

from transfer_gen import errors

# A line with its end. `str.splitlines` would also split at form feeds and U+2028, which
# are part of a text.
_LINE = re.compile("[^\n]*\n|[^\n]+")
# A document: where it stands, as `path:line` for messages, and its columns.
Example = tuple[str, dict[str, Any]]


def read(paths: str, *, unit: str, field: str) -> list[Example]:
  """Reads all documents of some files; the files of a glob are sorted by name.

  Args:
    paths: Comma-separated paths or globs; `a|b` names two line-aligned files, whose
      lines become the columns `input` and `target`.
    unit: What a document is in plain text: "line", "paragraph" (which includes the
      blank lines behind it) or "file".
    field: The config field that holds `paths`, for messages.

  Returns:
    Documents. Those of plain text have one column, `text`, with the original line ends.

  Raises:
    errors.UserError: If a file is missing, empty, not UTF-8 or not of its form.
  """
  examples: list[Example] = []
  for item in (item.strip() for item in paths.split(",")):
    if item:
      examples += _read_item(item, unit, field)
  return examples


def read_lines(path: str) -> list[str]:
  """Returns the lines of a text file that are not blank.

  Raises:
    errors.UserError: If the file is missing, blank or not UTF-8.
  """
  lines = [line for line in _split_lines(text(path)) if line.strip()]
  if not lines:
    raise errors.UserError(f"{path}: the file holds no text.")
  return lines


def text(path: str) -> str:
  """Returns the contents of a text file as they are.

  Raises:
    errors.UserError: If the file is missing or not UTF-8.
  """
  if not os.path.isfile(path):
    raise errors.UserError(f"{path}: there is no such file.")
  return _text(epath.Path(path))


def is_parallel(paths: str) -> bool:
  """Returns whether some of the paths are pairs of line-aligned files."""
  return "|" in paths


def _read_item(item: str, unit: str, field: str) -> list[Example]:
  if is_parallel(item):
    if unit != "line":
      raise errors.UserError(
          f"data.{field}: `{item}` names line-aligned files, but a document would be a"
          f" {unit}. Leave data.whole_files and data.paragraphs unset.")
    return _parallel(item, field)
  examples: list[Example] = []
  for path in _expand(item, field):
    reader = _reader(path, unit, field)
    found = list(reader(path))
    if not found:
      raise errors.UserError(
          f"{path}: no documents in it. Remove it from data.{field}, or fill it.")
    examples += found
  return examples


def _reader(
    path: epath.Path, unit: str, field: str
) -> Callable[[epath.Path], Iterator[Example]]:
  readers = {
      ".txt": _TEXTS[unit],
      ".jsonl": _json_lines,
      ".csv": _csv,
      ".tsv": _tsv,
  }
  suffix = epath.Path(path.name.removesuffix(".gz")).suffix
  if suffix not in readers:
    raise errors.UserError(
        f"data.{field}: {path} ends in {suffix or 'nothing'!r}; the known endings are"
        f" {', '.join(readers)}, each also with .gz. Rename or convert it.")
  return readers[suffix]


def _expand(item: str, field: str) -> list[epath.Path]:
  """Returns the files that a path or a glob names, sorted."""
  path = epath.Path(item).expanduser()
  parts = path.parts
  first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), None)
  if first is None:
    if not path.is_file():
      raise errors.UserError(
          f"data.{field}: there is no file {item} (in {os.getcwd()}). Give a path"
          " or a glob of existing files.")
    return [path]
  # `glob` takes relative patterns only, so it starts at the folder before the first
  # wildcard.
  base = epath.Path(*parts[:first]) if first else epath.Path(".")
  found = sorted(p for p in base.glob("/".join(parts[first:])) if p.is_file())
  if not found:
    raise errors.UserError(
        f"data.{field}: no file matches {item} (in {os.getcwd()}). Give a path or"
        " a glob of existing files.")
  return found


def _text(path: epath.Path) -> str:
  """Returns the text of a file, without a byte order mark at its start."""
  data = path.read_bytes()
  if path.name.endswith(".gz"):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError) as error:
      raise errors.UserError(
          f"{path}: not a complete gzip file ({error}). Download it again.") from error
  try:
    return data.decode("utf-8").removeprefix("\ufeff")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise errors.UserError(
        f"{path}:{line}: invalid UTF-8 (byte 0x{data[error.start]:02x}). Convert the"
        " file, e.g. `iconv -f latin1 -t utf-8`, or correct the line.") from error


def _split_lines(text: str) -> list[str]:
  r"""Splits a text at \n and \r\n only; form feeds and U+2028 stay in lines."""
  lines = text.replace("\r\n", "\n").split("\n")
  return lines[:-1] if lines[-1] == "" else lines


def _whole(path: epath.Path) -> Iterator[Example]:
  text = _text(path)
  if text.strip():
    yield f"{path}:1", {"text": text}


def _lines(path: epath.Path) -> Iterator[Example]:
  text = _text(path)
  if not text.strip():
    return
  for number, line in enumerate(_LINE.findall(text), 1):
    yield f"{path}:{number}", {"text": line}


def _paragraphs(path: epath.Path) -> Iterator[Example]:
  start, held = 1, []
  for number, (_, example) in enumerate(_lines(path), 1):
    line = example["text"]
    # A document ends where text follows a blank line, so that all blank lines between
    # belong to the one before, as `newline=keep` promises.
    if held and line.strip() and not held[-1].strip():
      yield f"{path}:{start}", {"text": "".join(held)}
      start, held = number, []
    held.append(line)
  if held:
    yield f"{path}:{start}", {"text": "".join(held)}


_TEXTS = {"line": _lines, "paragraph": _paragraphs, "file": _whole}


def _json_lines(path: epath.Path) -> Iterator[Example]:
  for number, line in enumerate(_split_lines(_text(path)), 1):
    if not line.strip():
      continue
    try:
      columns = json.loads(line)
    # Brackets nested some thousand deep raise a RecursionError.
    except (json.JSONDecodeError, RecursionError) as error:
      raise errors.UserError(
          f"{path}:{number}: not JSON ({error}). Each line must be one object, e.g."
          ' {"text": "..."}.') from error
    if not isinstance(columns, dict):
      raise errors.UserError(
          f"{path}:{number}: a {type(columns).__name__}, not an object. Each line"
          ' must be one object, e.g. {"text": "..."}.')
    yield f"{path}:{number}", columns


def _csv(path: epath.Path) -> Iterator[Example]:
  # Without `strict` the `csv` module accepts malformed quotes, and one that is never
  # closed would swallow the rest of the file as a single cell.
  yield from _table(path, delimiter=",", strict=True)


def _tsv(path: epath.Path) -> Iterator[Example]:
  # TSV files are usually written without quoting: a quote belongs to the text.
  yield from _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: epath.Path, **form: Any) -> Iterator[Example]:
  """Yields the rows below a header line that names the columns."""
  # Cells are documents, which may be longer than the 128 KiB that `csv` allows.
  # The limit is a C long, which has 32 bits on Windows.
  csv.field_size_limit(2**31 - 1)
  # With newline="" line ends inside quoted cells stay as they are in the file.
  rows = csv.reader(io.StringIO(_text(path), newline=""), **form)
  start = 1
  try:
    header = next(rows, [])
    start = rows.line_num + 1
    for row in rows:
      # `csv` returns blank lines as empty rows. A row spans several lines if one of its
      # cells does, so the reader counts the lines.
      if row:
        yield f"{path}:{start}", _columns(path, start, header, row)
      start = rows.line_num + 1
  except csv.Error as error:
    raise errors.UserError(
        f"{path}:{start}: not a row of this form ({error}). A cell that holds a"
        ' quote or a comma is written "..." with its quotes doubled.') from error


def _columns(
    path: epath.Path, line: int, header: Sequence[str], row: Sequence[str]
) -> dict[str, str]:
  if len(row) != len(header):
    raise errors.UserError(
        f"{path}:{line}: {len(row)} cells under {len(header)} columns"
        f" ({', '.join(header)}). Correct the row, or the file's"
        " ending if it has another delimiter.")
  return dict(zip(header, row))


def _parallel(item: str, field: str) -> list[Example]:
  """Returns the lines of two files side by side."""
  source, target = _two_files(item, field)
  inputs, targets = _split_lines(_text(source)), _split_lines(_text(target))
  if len(inputs) != len(targets):
    raise errors.UserError(
        f"data.{field}: {source} has {len(inputs)} lines and {target} has"
        f" {len(targets)}. Line-aligned files must have equally many; align them"
        " again.")
  if not inputs:
    raise errors.UserError(
        f"data.{field}: {source} and {target} are empty. Give files with text.")
  return [
      (f"{target}:{i + 1}", {"input": a, "target": b})
      for i, (a, b) in enumerate(zip(inputs, targets))]


def _two_files(item: str, field: str) -> tuple[epath.Path, epath.Path]:
  paths = [_expand(name.strip(), field) for name in item.split("|")]
  if len(paths) != 2 or any(len(found) != 1 for found in paths):
    raise errors.UserError(
        f"data.{field}: `{item}` must name two files, `input|target`; several such"
        " pairs are separated by commas.")
  (source,), (target,) = paths
  return source, target
