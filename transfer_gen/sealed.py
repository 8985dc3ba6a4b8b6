"""Files of a run that must stay as they were written, and how damage to them shows.

A sealed folder holds `digests.json`, with the XXH3 digest of each file. A file that has
none is read as it is: earlier versions sealed nothing.
"""

from collections.abc import Iterator
import contextlib
import json
from typing import Any

from etils import epath
import xxhash

from transfer_gen import errors
from transfer_gen import untrusted

FILE = "digests.json"
INSTEAD = "Restore it from a copy, or train again in a new --workdir."


def write(folder: epath.PathLike, *names: str) -> None:
  """Seals files of a folder.

  Args:
    folder: The folder.
    *names: Its files, as paths in it; without any, all that are there, and those of
      folders in it.
  """
  folder = epath.Path(folder)
  for inner in folder.iterdir() if not names else ():
    if inner.is_dir():
      write(inner)
  names = names or tuple(sorted(
      path.name for path in folder.iterdir() if path.is_file() and path.name != FILE))
  partial = folder / f"{FILE}.partial"
  untrusted.make_way(partial)
  partial.write_text(json.dumps(
      {name: _digest(untrusted.read(folder / name)) for name in names}, indent=2))
  partial.replace(folder / FILE)


def changed(folder: epath.Path, unread: str = "") -> Iterator[str]:
  """Yields the names of sealed files that are missing or not those that were sealed.

  Args:
    folder: A folder that `write` was given, with its names.
    unread: A folder in it whose files are left out.

  Raises:
    errors.UserError: If the seal, or a file, cannot be read.
  """
  for name, digest in _digests(folder / FILE).items():
    path = folder / name
    if name.split("/")[0] != unread and (
        not path.exists()
        or digest != _digest(untrusted.read(untrusted.inside(path, folder)))):
      yield name


def exists(path: epath.Path) -> bool:
  """Returns whether there is a file.

  Raises:
    errors.UserError: If there is none, and its folder was sealed with it.
  """
  if path.exists():
    return True
  if path.name in _digests(path):
    raise errors.UserError(f"{path}: it is missing. {INSTEAD}")
  return False


def read(path: epath.Path) -> bytes:
  """Returns the bytes of a file in a folder that may be sealed.

  Raises:
    errors.UserError: As `untrusted.read`, if the file is a link out of its folder, or
      if it is not the one that was sealed.
  """
  data = untrusted.read(untrusted.inside(path), untrusted.JSON_BYTES)
  digest = _digest(data)
  if _digests(path).get(path.name, digest) != digest:
    raise errors.UserError(
        f"{path}: it is damaged, or was edited after it was written. {INSTEAD} If it is"
        f" meant to be so, remove {path.parent / FILE}.")
  return data


def read_json(path: epath.Path, instead: str = INSTEAD) -> Any:
  """Returns what a JSON file in a folder that may be sealed holds.

  Args:
    path: The file.
    instead: What to do if it is no JSON, as a sentence.

  Raises:
    errors.UserError: As `read`, or if it is no JSON; the message begins with the path.
  """
  data = read(path)
  try:
    return untrusted.parse_json(data)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error} {instead}") from error


@contextlib.contextmanager
def damaged(path: epath.PathLike, instead: str = INSTEAD) -> Iterator[None]:
  """Turns what code raises that stumbles over a damaged file into one message.

  Args:
    path: The file, which a run wrote.
    instead: What to do then, as a sentence.

  Raises:
    errors.UserError: If the body raises an error of arithmetic, look-up, type or value.
  """
  try:
    yield
  except errors.UserError as error:
    # Others may have named it already.
    named = str(error).startswith(str(path))
    raise errors.UserError(f"{'' if named else f'{path}: '}{error}") from error
  except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
          ValueError) as error:
    raise errors.UserError(
        f"{path}: it is damaged, or of another version ({errors.cause(error)})."
        f" {instead}") from error


def _digests(path: epath.Path) -> dict[str, Any]:
  seal = path.parent / FILE
  if not seal.exists():
    return {}
  try:
    digests = untrusted.read_json(untrusted.inside(seal))
    if isinstance(digests, dict):
      return digests
    cause = f"{seal}: not an object."
  except errors.UserError as error:
    cause = str(error)
  raise errors.UserError(f"{cause} Remove it to go on without digests.")


def _digest(data: bytes) -> str:
  return xxhash.xxh3_64_hexdigest(data)
