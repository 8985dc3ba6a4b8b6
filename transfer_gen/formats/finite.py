"""Says where a checkpoint of others holds values that are not finite.

They are no misfit: a row that is never used may hold them, and the framework that wrote
the checkpoint reads them as well. But whoever converts or trains such a checkpoint must
know. A run of this package saves none, see `run.ledger`.
"""

import logging
from typing import Any

import numpy as np


def warn(path: Any, name: str, value: np.ndarray) -> None:
  """Logs a warning if some values of a leaf are not finite as float32.

  Args:
    path: File or folder that the leaf was read from.
    name: Name of the leaf there.
    value: The leaf, of any dtype.
  """
  if value.dtype.kind in "biu":
    return
  # The sum is not finite if a value is not, and takes no memory of the leaf's size. It
  # may overflow where all are finite, so that only then each value is looked at.
  with np.errstate(all="ignore"):
    if np.isfinite(value.sum(dtype=np.float32)):
      return
    bad = np.argwhere(~np.isfinite(value.astype(np.float32)))
  if len(bad):
    logging.getLogger(__name__).warning(
        "%s: %s has values that are not finite, %s of %s, the first at [%s]. They are"
        " read as they are, and so is what a model computes with them. Another copy of"
        " the checkpoint may be whole.", path, name, f"{len(bad):,}", f"{value.size:,}",
        ", ".join(map(str, bad[0])))
