"""Paths of folders without characters that libraries cannot take as they are."""

import functools
import hashlib
import os
import tempfile

from etils import epath


# etils, with whose paths Orbax looks for files, reads these characters as a pattern
# wherever they stand, and the parts of a checkpoint would not be found. Names of files
# may be any bytes, and TensorStore takes UTF-8 alone.
def of(folder: epath.Path) -> epath.Path:
  """Returns a path of a local folder in UTF-8 without *, ? and [, by way of a link."""
  name = os.fsencode(folder)
  if "://" in str(folder) or not (set(b"*?[") & set(name) or _is_odd(name)):
    return folder
  link = epath.Path(_links().name) / hashlib.sha256(name).hexdigest()
  if not link.exists():
    os.symlink(folder, link)
  return link


def _is_odd(name: bytes) -> bool:
  try:
    name.decode("utf-8")
  except UnicodeDecodeError:
    return True
  return False


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
  """A folder that is removed when the process ends."""
  return tempfile.TemporaryDirectory(prefix="transfer_gen_")
