"""JSON: lines of objects, or one array of objects."""

from collections.abc import Iterable, Iterator
from typing import Any

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.data.readers import blobs
from transfer_gen.data.readers import plain

Example = blobs.Example
_ADVICE = 'Each line must be one object, e.g. {"text": "..."}.'


def read_lines(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the object on each line; blank lines are passed over.

  Raises:
    errors.UserError: If a line is something else.
  """
  return _lines(str(blob), blob.lines(options.held))


def read(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the objects of an array, or of lines, whichever the file holds.

  An object with an array of objects in one of its fields stands for that array.

  Raises:
    errors.UserError: If it holds neither.
  """
  del options
  text, name = blob.text(), str(blob)
  try:
    value = untrusted.parse_json(text, whole=False) if text.strip() else []
  except errors.UserError as error:
    if _starts_with_object(text):
      yield from _lines(name, plain.split_lines(text))
      return
    raise errors.UserError(
        f"{name}: {error} It must be an array of objects, or one object on"
        " each line.") from error
  for number, item in enumerate(_array(value), 1):
    # The parser reports no lines, so elements are counted.
    where = f"{name}:[{number}]"
    if not isinstance(item, dict):
      raise errors.UserError(
          f"{where}: a {type(item).__name__}, not an object. Each element must be an"
          ' object, e.g. {"text": "..."}.')
    yield where, item


def _array(value: Any) -> list[Any]:
  if isinstance(value, list):
    return value
  arrays = [field for field in value.values() if isinstance(field, list) and field
            and all(isinstance(item, dict) for item in field)
            ] if isinstance(value, dict) else []
  return arrays[0] if len(arrays) == 1 else [value]


def _starts_with_object(text: str) -> bool:
  """Whether the first line alone is an object, as in files of JSON lines."""
  first = next((line for line in plain.split_lines(text) if line.strip()), "")
  try:
    return isinstance(untrusted.parse_json(first, whole=False), dict)
  except errors.UserError:
    return False


def _lines(name: str, lines: Iterable[str]) -> Iterator[Example]:
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      columns = untrusted.parse_json(line, whole=False)
    except errors.UserError as error:
      raise errors.UserError(f"{name}:{number}: {error} {_ADVICE}") from error
    if not isinstance(columns, dict):
      raise errors.UserError(
          f"{name}:{number}: a {type(columns).__name__}, not an object. {_ADVICE}")
    yield f"{name}:{number}", columns
