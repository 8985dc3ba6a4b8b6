"""Data sets that the package builds itself, with TensorFlow Datasets (TFDS)."""

import contextlib
import logging

from etils import epath

from transfer_gen import lock


def hush() -> None:
  """Hides warnings of TFDS: what is wrong with the data set that is read, it raises.

  It warns of configs that are no constants of a builder's class, and of every folder
  beside a data set that is none. A reader of ours can do nothing about either.
  """
  # Before each use, because what imports absl after us may set another level.
  logging.getLogger("absl").setLevel(logging.CRITICAL)


def alone(
    folder: epath.Path, name: str) -> contextlib.AbstractContextManager[None]:
  """Lets only one process of this machine at a time prepare a data set.

  Folders in a bucket have no locks. There, TFDS's own renaming of the finished folder
  must be enough.
  """
  folder.mkdir(parents=True, exist_ok=True)
  return lock.hold(
      folder / f".{name.replace('/', '_').replace(':', '_')}.lock", "", wait=True)
