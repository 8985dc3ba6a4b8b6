"""Says where a checkpoint of others holds values that are not finite.

They are no misfit: a row that is never used may hold them, and the framework that wrote
the checkpoint reads them as well. But whoever converts or trains such a checkpoint must
know. A run of this package saves none, see `run.ledger`.
"""

import logging
from typing import Any

import numpy as np

from transfer_gen.formats import ranges


def warn(
    path: Any, name: str, value: np.ndarray, entries: ranges.Entries | None = None
) -> None:
  """Logs a warning if some values of a leaf are not finite as float32.

  Args:
    path: File or folder that the leaf was read from.
    name: Name of the leaf there.
    value: The leaf, of any dtype.
    entries: Which entries of the leaf `value` consists of. By default all.
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
        ", ".join(str(i if entries is None else entries[dim][i])
                  for dim, i in enumerate(bad[0])))
