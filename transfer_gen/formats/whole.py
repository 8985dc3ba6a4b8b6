"""Files and folders that are written whole or not at all.

Each is written beside its final place as `<name>.partial` and then renamed, so that no
reader ever sees a part of it.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import lock

_PARTIAL = ".partial"


def read_json(path: epath.Path, parse: Callable[[Any], Any]) -> Any:
  """Reads a JSON file that a run left, and parses what it holds.

  Args:
    path: The file.
    parse: From JSON types to the result; may raise `UserError`.

  Raises:
    errors.UserError: If there is no such file, it is no JSON, or `parse` raises; the
      message begins with the path.
  """
  if not path.exists():
    raise errors.UserError(
        f"{path.parent}: has no {path.name}; `plan` and `train` write one.")
  try:
    return parse(json.loads(path.read_text()))
  except (errors.UserError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise errors.UserError(f"{path}: {error}") from error


def write_json(path: epath.PathLike, data: Any) -> None:
  """Writes indented JSON with sorted keys and a line end."""
  write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file as UTF-8."""
  write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file."""
  path = epath.Path(path)
  # In the same folder, because a rename is atomic only within one file system.
  partial = path.parent / f"{path.name}{_PARTIAL}"
  partial.write_bytes(data)
  partial.replace(path)


@contextlib.contextmanager
def folder(output: epath.Path) -> Iterator[epath.Path]:
  """Yields a folder beside `output`, which is renamed to `output` at the end.

  If the body raises, the folder is removed with all that was written into it.

  What a process that was killed has left there is removed first.

  Args:
    output: The folder to write. It must not exist yet.

  Raises:
    errors.UserError: If another process is writing it.
  """
  output.parent.mkdir(parents=True, exist_ok=True)
  partial = output.parent / f"{output.name}{_PARTIAL}"
  with lock.hold(output.parent / f"{output.name}{_PARTIAL}.lock",
                 f"{output}: another command writes it"):
    if partial.exists():
      partial.rmtree()
    partial.mkdir()
    try:
      yield partial
      partial.rename(output)
    # KeyboardInterrupt as well, or each Ctrl-C would leave a folder.
    except BaseException:
      partial.rmtree()
      raise


def final_name(partial: epath.Path) -> epath.Path:
  """The path that a folder yielded by `folder` will have at the end."""
  return partial.parent / partial.name.removesuffix(_PARTIAL)
