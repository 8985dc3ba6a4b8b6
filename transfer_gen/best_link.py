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


def check(folder: epath.PathLike) -> None:
  """Refuses a folder in which something else has the place of the link.

  A link to a run that is gone is replaced, as it is ours.

  Args:
    folder: Folder of a study or a search; it need not exist.

  Raises:
    errors.UserError: If `best` is there and names nothing in the folder.
  """
  link = epath.Path(folder) / NAME
  if not os.path.islink(link) and not link.exists():
    return
  target = _target(link)
  # What a link names may be gone. A text names at least a folder that is there, for
  # other texts might look like a path.
  is_ours = target == ".." or _is_below(target, epath.Path(folder)) and (
      os.path.islink(link) or (link.parent / target.split("/")[0]).is_dir())
  if not is_ours:
    raise errors.UserError(
        f"{link}: is no link to a run below {folder}, and the link to the best run"
        " belongs there. Rename it, or give another folder.")


def write(folder: epath.PathLike, workdir: epath.PathLike) -> None:
  """Makes `best` in a folder name a run; replaces an earlier link.

  Args:
    folder: Folder of a study or a search.
    workdir: Workdir of the run: in the folder, or the folder above it.

  Raises:
    errors.UserError: If something else has the name, see `check`.
  """
  check(folder)
  folder, workdir = epath.Path(folder), epath.Path(workdir)
  target = ".." if workdir == folder.parent else str(workdir.relative_to(folder))
  link, partial = folder / NAME, folder / f"{NAME}.partial"
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
  target = _target(path / NAME)
  workdir = path.parent if target == ".." else path / target
  # A run that was moved, or an unrelated file or link of that name: the reader of
  # `path` then reports what it finds there.
  is_ours = target == ".." or _is_below(target, path)
  return workdir if is_ours and workdir.is_dir() else path


def _target(link: epath.Path) -> str:
  """Returns what a link or a text file names; "" if there is nothing like that."""
  if os.path.islink(link):
    return os.readlink(link)
  try:
    return untrusted.text(link, _LONGEST).strip() if link.is_file() else ""
  except errors.UserError:
    return ""


def _is_below(target: str, folder: epath.Path) -> bool:
  """Whether what a link in a folder names is in that folder."""
  return os.path.abspath(folder / target).startswith(
      os.path.join(os.path.abspath(folder), ""))
