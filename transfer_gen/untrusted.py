"""Opens files that others have made, and parses their JSON.

Files and folders are downloaded, copied and damaged. Only regular files are opened,
because a pipe or a device has no end; a name in a folder must not lead out of the
folder; and all JSON goes through one parser, which refuses what others would read
differently.
"""

from collections.abc import Callable
import json
import math
import os
import pathlib
import stat
from typing import Any, IO

from etils import epath

from transfer_gen import errors
from transfer_gen import system

JSON_BYTES = 100 * 2**20  # More than any vocabulary, index or record takes.
_DEPTH = 100  # Of brackets in JSON; what walks a value calls itself once for each.
_SHOWN = 200  # Characters of a cause that a message quotes.
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder",
          stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check(path: epath.PathLike) -> None:
  """Checks that a path is a regular file, or a link to one.

  Paths of other storage, such as gs://, have regular files only.

  Raises:
    errors.UserError: If it is something else, or cannot be looked at.
  """
  if "://" in os.fspath(path):
    return
  try:
    mode = os.stat(path).st_mode
  except FileNotFoundError as error:
    raise errors.UserError(f"{path}: there is no such file.") from error
  except (OSError, ValueError) as error:
    system.check(path, error)
    raise errors.UserError(f"{path}: {_reason(error)}. Give another file.") from error
  if not stat.S_ISREG(mode):
    raise errors.UserError(
        f"{path}: it is {_KINDS.get(stat.S_IFMT(mode), 'of another kind')} and no file."
        " Write its contents to a file, and give that.")


def opened(path: epath.PathLike) -> IO[bytes]:
  """Opens a regular file to read bytes.

  Raises:
    errors.UserError: As `check`, or if it may not be read.
  """
  check(path)
  try:
    return epath.Path(path).open("rb")
  except OSError as error:
    system.check(path, error)
    raise errors.UserError(f"{path}: {_reason(error)}. Give another file.") from error


def read(path: epath.PathLike, limit: int | None = None) -> bytes:
  """Returns the bytes of a regular file.

  Args:
    path: The file.
    limit: Bytes that it may have at most.

  Raises:
    errors.UserError: As `check`, if it is larger, or if the disk fails.
  """
  with opened(path) as file:
    length = file.seek(0, os.SEEK_END)
    if limit is not None and length > limit:
      raise errors.UserError(
          f"{path}: it has {length:,} bytes, and a file of this kind has at most"
          f" {limit:,}.")
    file.seek(0)
    with system.reading(path):
      return file.read()


def text(path: epath.PathLike, limit: int | None = None) -> str:
  """Returns the text of a regular file in UTF-8, without a byte order mark.

  Raises:
    errors.UserError: As `read`, or if it is not UTF-8.
  """
  try:
    return decoded(read(path, limit))
  except UnicodeDecodeError as error:
    raise errors.UserError(f"{path}: {_not_utf8(error)}") from error


def decoded(data: bytes) -> str:
  """Decodes UTF-8, without a byte order mark; raises `UnicodeDecodeError`."""
  return data.decode("utf-8").removeprefix("\ufeff")


def inside(path: epath.Path, root: epath.Path | None = None) -> epath.Path:
  """Returns a path in a folder, unless it is a link that leads out of the folder.

  The folder may itself be a link. Links into `blobs/` from `snapshots/` of the same
  repository are how the cache of Hugging Face keeps files, and are followed.

  Args:
    path: What a folder of somebody else holds; need not exist.
    root: The folder, of which `path` may lie in one of its own. By default that in
      which `path` lies; who goes down into folders of a folder looks at each of them.

  Raises:
    errors.UserError: If it leads elsewhere.
  """
  if "://" in os.fspath(path) or root is None and not os.path.islink(path):
    return path
  folder = pathlib.Path(os.path.realpath(root or path.parent))
  real = pathlib.Path(os.path.realpath(path))
  blobs = [pathlib.Path(os.path.realpath(above.parent / "blobs"))
           for above in (folder, *folder.parents) if above.name == "snapshots"]
  if folder not in real.parents and real.parent not in blobs:
    raise errors.UserError(
        f"{path}: a link that leads out of its folder, to {real}. Replace it by a copy"
        " of what is meant.")
  return path


def make_way(path: epath.PathLike) -> None:
  """Removes what stands where a new file is to be written, if it is no regular one.

  Through a link, what is written would replace a file elsewhere, and a pipe would wait
  for a reader without end. Folders stay.
  """
  if "://" in os.fspath(path) or not os.path.lexists(path):
    return
  mode = os.lstat(path).st_mode
  if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
    os.unlink(path)


def read_json(path: epath.PathLike, **how: Any) -> Any:
  """Returns what a JSON file holds.

  Args:
    path: The file.
    **how: As of `parse_json`.

  Raises:
    errors.UserError: As `read` and `parse_json`; the message begins with the path.
  """
  data = read(path, JSON_BYTES)
  try:
    return parse_json(data, **how)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error


def parse_json(
    data: bytes | str, *, finite: bool = False, whole: bool = True,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
  """Parses JSON.

  Args:
    data: UTF-8, which may begin with a byte order mark, or text.
    finite: Whether NaN and infinite numbers are refused. Python writes them, JSON has
      none.
    whole: Whether half of a surrogate pair, which no text can hold, is refused. Who
      leaves it in must look for it.
    pairs: Makes an object of its (name, value) pairs. By default a dict, and an object
      in which a name stands twice is refused, since parsers differ in which they take.

  Raises:
    errors.UserError: If it is no JSON, if it is nested too deeply, or if it holds half
      a character or a number of thousands of digits.
  """
  numbers: dict[str, Any] = {
      "parse_constant": _no_number, "parse_float": _finite} if finite else {}
  try:
    shown = decoded(data) if isinstance(data, bytes) else data
    value = json.loads(shown, object_pairs_hook=pairs or _unique, **numbers)
    _check_depth(value)
    # Only an escape can spell half of a pair, so that most texts are not encoded again.
    if whole and ("\\u" in shown or isinstance(data, str)):
      json.dumps(value, ensure_ascii=False, default=str).encode()
  except UnicodeDecodeError as error:
    raise errors.UserError(_not_utf8(error)) from error
  except UnicodeEncodeError as error:
    raise errors.UserError(
        "not JSON: it holds half of a character, such as \\ud83d without the other"
        " half. Write the character whole.") from error
  except RecursionError as error:
    raise errors.UserError(f"not JSON: nested more than {_DEPTH} deep.") from error
  # Python refuses integers of more than 4300 digits with a ValueError, of which
  # JSONDecodeError and UserError are kinds.
  except ValueError as error:
    raise errors.UserError(f"not JSON: {str(error)[:_SHOWN]}.") from error
  return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  names = dict(pairs)
  if len(names) < len(pairs):
    seen: set[str] = set()
    twice = next(n for n, _ in pairs if n in seen or seen.add(n))
    raise ValueError(f"{twice[:100]!r} stands there twice")
  return names


def _check_depth(value: Any) -> None:
  level, depth = [value], 0
  while level:
    level = [inner for outer in level if isinstance(outer, (dict, list)) for inner in (
        outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, (dict, list))]
    depth += 1
    if depth > _DEPTH:
      raise RecursionError


def _no_number(name: str) -> float:
  raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
  value = float(digits)
  return value if math.isfinite(value) else _no_number(digits[:40])


def _reason(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error)[:_SHOWN]


def _not_utf8(error: UnicodeDecodeError) -> str:
  return (f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start:,})."
          " Convert it, or fetch it again.")
