"""Paths of other storage: which packages reach them, and what may lie there.

etils opens such paths with fsspec. Orbax writes arrays with TensorStore, and knows of
Google Cloud Storage alone.
"""

import importlib.util
import os
import re
import time

from etils import epath

from transfer_gen import errors

# By scheme: the package that fsspec needs, and our extra that installs it.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_SCHEME = re.compile("([a-z][a-z0-9+.-]*)://")


def check(path: str | os.PathLike[str]) -> None:
  """Checks that a path is local, or that what reaches it is installed.

  Raises:
    errors.UserError: If it is neither.
  """
  scheme = _scheme(path)
  if not scheme:
    return
  if scheme not in _PACKAGES:
    raise errors.UserError(
        f"{os.fspath(path)}: storage of {scheme}:// is not supported. Give a local"
        " path, gs:// or s3://.")
  package, extra = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    raise errors.UserError(
        f"{os.fspath(path)}: {scheme}:// needs the package {package}, which is not"
        f" installed. Run `pip install 'transfer_gen[{extra}]'`, or give a local path.")


def check_workdir(path: str | os.PathLike[str]) -> None:
  """Checks that checkpoints can lie at a path.

  Raises:
    errors.UserError: If they cannot, or as `check`.
  """
  if _scheme(path) == "s3":
    # It would write them into a local folder of the name `s3:`.
    raise errors.UserError(
        f"{os.fspath(path)}: Orbax keeps no checkpoints on s3://. Give a local folder"
        " or gs:// as the workdir; data, and checkpoints of other libraries, may be on"
        " s3://.")
  check(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
  """Returns an absolute path without links; one of other storage as it is."""
  # For etils, `gs://bucket` is a folder of the working directory once it is resolved.
  path = epath.Path(path)
  return path if _scheme(path) else path.resolve()


class Lines:
  """A file to which lines are added.

  Other storage can only replace files. There all lines are written again, at most once
  in `EVERY` seconds and at the end.
  """
  EVERY = 30.0

  def __init__(self, path: epath.Path):
    """Opens a file that exists."""
    self._path, self._file, self._lines = path, None, []
    if _scheme(path):
      self._lines, self._written = [path.read_text()], time.monotonic()
    else:
      self._file = path.open("a")

  def add(self, line: str) -> None:
    """Adds a line with its end; a local file holds it at once."""
    if self._file is not None:
      self._file.write(line)
      self._file.flush()
      return
    self._lines.append(line)
    if time.monotonic() - self._written > self.EVERY:
      self._replace()

  def close(self) -> None:
    """Writes what is not written."""
    if self._file is not None:
      self._file.close()
    else:
      self._replace()

  def _replace(self) -> None:
    self._path.write_text("".join(self._lines))
    self._written = time.monotonic()


def _scheme(path: str | os.PathLike[str]) -> str:
  """Returns what stands before `://`; of a local path, nothing."""
  found = _SCHEME.match(os.fspath(path))
  return found[1] if found else ""
