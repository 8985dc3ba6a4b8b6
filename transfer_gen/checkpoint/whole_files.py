"""Digests of the files of a checkpoint, beside those of its leaves.

Digests of leaves notice each bit that is read. Those of files notice the rest, such as
nodes of the store that a later one has replaced, and notes of Orbax.
"""

import os
import pathlib

from etils import epath

from transfer_gen import processes
from transfer_gen import sealed
from transfer_gen.checkpoint import digests
from transfer_gen.checkpoint import layout

# Bytes. What a larger file holds besides leaves is some KB, and reading it twice would
# take longer than is worth it.
_WHOLE = 16 * 2**20


def seal(folder: epath.Path) -> None:
  """Seals the files of a complete checkpoint, if that has not been done.

  Storage behind a protocol, such as gs://, keeps checksums of its own. Of processes
  that train together, one does it.
  """
  if not processes.is_first() or "://" in os.fspath(folder):
    return
  if (folder / sealed.FILE).exists():
    return
  root, facts = pathlib.Path(folder), pathlib.Path(layout.facts_path(folder))
  # The facts have a digest of their own, and may be amended.
  sealed.write(folder, *sorted(
      str(path.relative_to(root)) for path in root.rglob("*")
      if path.is_file() and path.stat().st_size <= _WHOLE and path != facts))


def check(folder: epath.Path, unread: str = "") -> None:
  """Compares the files of a checkpoint with those that were sealed.

  A process that was killed before it could seal them leaves none to compare.

  Args:
    folder: Folder of the checkpoint.
    unread: Item whose files are not looked at, because nothing of it is read.

  Raises:
    digests.Damaged: If one is missing or differs.
  """
  with digests.reading(folder):
    for name in sealed.changed(folder, unread):
      raise digests.Damaged(
          f"{folder}: the checkpoint is damaged. Its file {name} is missing, or is not"
          f" the one that was saved. {digests.INSTEAD}")
