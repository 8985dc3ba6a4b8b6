"""The link `best` in the folder of a study or a search, which names its best run.

It is a symbolic link with a relative path, so that the folder can be moved. Where there
are no links, as on gs://, it is a text file that holds the same path.
"""

import os

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted

NAME = "best"
_LONGEST = 2**14  # Bytes of a path.


def write(folder: epath.PathLike, workdir: epath.PathLike) -> None:
  """Makes `best` in a folder name a run; replaces an earlier link.

  Args:
    folder: Folder of a study or a search.
    workdir: Workdir of the run: in the folder, or the folder above it.

  Raises:
    errors.UserError: If something that is neither a link nor a file has the name.
  """
  folder, workdir = epath.Path(folder), epath.Path(workdir)
  target = ".." if workdir == folder.parent else str(workdir.relative_to(folder))
  link, partial = folder / NAME, folder / f"{NAME}.partial"
  if link.is_dir() and not os.path.islink(link):
    raise errors.UserError(f"{link}: is a folder. Rename it: a link belongs there.")
  partial.unlink(missing_ok=True)
  try:
    os.symlink(target, partial)
    # Of `os`, because epath refuses to replace what is a link to a folder.
    os.replace(partial, link)
  except OSError:  # Also for gs://..., where no local folder has that name.
    link.unlink(missing_ok=True)
    link.write_text(f"{target}\n")


def follow(path: epath.PathLike) -> epath.Path:
  """Returns the workdir that `best` in a folder names; without one, the path itself.

  Args:
    path: Any path. The workdir of a run, in which `best` has no such meaning, and a
      checkpoint of another library are returned as they are.

  Example:
    >>> import tempfile
    >>> study = epath.Path(tempfile.mkdtemp())
    >>> (study / "moved" / "checkpoints").mkdir(parents=True)
    >>> write(study, study / "moved")
    >>> follow(study).name
    'moved'
    >>> follow(study / "moved").name
    'moved'
  """
  path = epath.Path(path)
  link = path / NAME
  if os.path.islink(link):
    target = os.readlink(link)
  elif link.is_file():
    target = _read(link)
  else:
    target = ""
  if not target:
    return path
  workdir = path.parent if target == ".." else path / target
  # A run that was moved, or an unrelated file or link of that name: the reader of
  # `path` then reports what it finds there.
  is_ours = target == ".." or os.path.abspath(workdir).startswith(
      os.path.join(os.path.abspath(path), ""))
  return workdir if is_ours and workdir.is_dir() else path


def _read(link: epath.Path) -> str:
  """Returns the path in a text file; "" if the file is of another kind."""
  try:
    return untrusted.text(link, _LONGEST).strip()
  except errors.UserError:
    return ""
