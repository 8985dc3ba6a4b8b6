"""Data sets that the package builds itself, with TensorFlow Datasets (TFDS)."""

import logging


def hush() -> None:
  """Hides warnings of TFDS: what is wrong with the data set that is read, it raises.

  It warns of configs that are no constants of a builder's class, and of every folder
  beside a data set that is none. A reader of ours can do nothing about either.
  """
  # Before each use, because what imports absl after us may set another level.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
