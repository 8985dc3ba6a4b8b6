"""Files and folders that are written whole or not at all.

Each is written beside its final place as `<name>.partial` and then renamed, so that no
reader ever sees a part of it.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import lock
from transfer_gen import sealed
from transfer_gen import untrusted
from transfer_gen.formats import numpy_files
from transfer_gen.formats import raw

_PARTIAL = ".partial"
read_bytes, parse_json, seal = untrusted.read, untrusted.parse_json, sealed.write
damaged, make_way = sealed.damaged, untrusted.make_way


def read_json(
    path: epath.Path, parse: Callable[[Any], Any],
    instead: str = sealed.INSTEAD) -> Any:
  """Reads a JSON file that a run left, and parses what it holds.

  Args:
    path: The file.
    parse: From JSON types to the result; may raise `UserError`.
    instead: What to do if it is damaged, as a sentence.

  Raises:
    errors.UserError: If there is no such file, it is no JSON, or `parse` raises; the
      message begins with the path.
  """
  if not path.exists():
    raise errors.UserError(
        f"{path.parent}: has no {path.name}; `plan` and `train` write one.")
  data = sealed.read_json(path, instead)
  with damaged(path, instead):
    return parse(data)


def read_npz(path: epath.Path) -> dict[str, np.ndarray]:
  """Reads the arrays that a run left; raises a `UserError` that names the path."""
  try:
    found = numpy_files.open_npz(raw.inside(path))
    return dict(found.read(list(found.leaves)))
  except errors.UserError as error:
    raw.check_system(path, error)
    raise errors.UserError(
        f"{path}: is damaged: {error} {sealed.INSTEAD}") from error


def write_json(path: epath.PathLike, data: Any) -> None:
  """Writes indented JSON with sorted keys and a line end."""
  write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file as UTF-8."""
  write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file."""
  path = epath.Path(path)
  check_output(path)
  # In the same folder, because a rename is atomic only within one file system.
  partial = path.parent / f"{path.name}{_PARTIAL}"
  with writing(path):
    try:
      untrusted.make_way(partial)
      partial.write_bytes(data)
      partial.replace(path)
    # KeyboardInterrupt as well; and on a full disk, it would take the place that others
    # need.
    except BaseException:
      with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)
      raise


def check_output(path: epath.PathLike) -> None:
  """Checks that a path to write to is free, or a file that may be replaced.

  Raises:
    errors.UserError: If it is a folder, a device or a pipe, or cannot be looked at.
  """
  path = epath.Path(path)
  with writing(path):
    # Of `os`: for etils all is a file that is no folder.
    if path.exists() and "://" not in str(path) and not os.path.isfile(path):
      raise errors.UserError(
          f"{path}: it is {'a folder' if path.is_dir() else 'a device or a pipe'}, and"
          " a file is to be written. Give another path.")


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
  """Turns what a full, broken or read-only disk raises into one message.

  Args:
    path: What is written.

  Raises:
    errors.Unwritable: If the body raises an OSError.
  """
  try:
    yield
  except (BrokenPipeError, InterruptedError):
    raise
  except OSError as error:
    part = f" ({error.filename})" if error.filename else ""
    raise _unwritable(path, f"{error.strerror or error}{part}") from error


def _unwritable(path: epath.PathLike, cause: str) -> errors.Unwritable:
  return errors.Unwritable(
      f"{path}: cannot be written: {cause}. Make room there, or give another path; what"
      " was complete before is kept.", cause)


@contextlib.contextmanager
def folder(output: epath.Path) -> Iterator[epath.Path]:
  """Yields a folder beside `output`, which is renamed to `output` at the end.

  If the body raises, the folder is removed with all that was written into it.

  What a process that was killed has left there is removed first.

  Args:
    output: The folder to write. It must not exist yet.

  Raises:
    errors.UserError: If another process is writing it, or it cannot be written.
  """
  partial = output.parent / f"{output.name}{_PARTIAL}"
  with alone(output):
    with writing(output):
      if partial.exists():
        partial.rmtree()
      partial.mkdir()
      try:
        yield partial
        partial.rename(output)
      # KeyboardInterrupt as well, or each Ctrl-C would leave a folder.
      except BaseException as error:
        partial.rmtree()
        if isinstance(error, errors.Unwritable):
          # It names a file of the folder that was removed here.
          raise _unwritable(output, error.cause) from error
        raise


@contextlib.contextmanager
def alone(output: epath.Path) -> Iterator[None]:
  """Lets no other process write a file or folder while the body runs.

  Args:
    output: The file or folder; that in which it will lie is made.

  Raises:
    errors.UserError: If another process is writing it, or its folder cannot be made.
  """
  with writing(output):
    output.parent.mkdir(parents=True, exist_ok=True)
  with lock.hold(_lock_of(output), f"{output}: another command writes it"):
    yield


def check_new(output: epath.Path) -> None:
  """Checks that nothing is there yet where `folder` is to write.

  Raises:
    errors.UserError: If something is.
  """
  if output.exists():
    left = _lock_of(output)
    # Of a process that was killed after its last step, so that nothing is left to do.
    if left.exists():
      with contextlib.suppress(errors.UserError, OSError), lock.hold(left, ""):
        pass
    raise errors.UserError(f"{output}: is there already. Take another --output.")


def _lock_of(output: epath.Path) -> epath.Path:
  return output.parent / f"{output.name}{_PARTIAL}.lock"


def final_name(partial: epath.Path) -> epath.Path:
  """The path that a folder yielded by `folder` will have at the end."""
  return partial.parent / partial.name.removesuffix(_PARTIAL)
