"""Paths of folders without characters that libraries read as patterns."""

import functools
import hashlib
import os
import tempfile

from etils import epath


# etils, with whose paths Orbax looks for files, reads these characters as a pattern
# wherever they stand, and the parts of a checkpoint would not be found.
def of(folder: epath.Path) -> epath.Path:
  """Returns a path of a local folder that contains no *, ? or [, by way of a link."""
  if "://" in str(folder) or not set("*?[") & set(str(folder)):
    return folder
  link = epath.Path(_links().name) / hashlib.sha256(str(folder).encode()).hexdigest()
  if not link.exists():
    os.symlink(folder, link)
  return link


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
  """A folder that is removed when the process ends."""
  return tempfile.TemporaryDirectory(prefix="transfer_gen_")
