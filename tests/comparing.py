"""How far two results lie apart."""

import numpy as np
import numpy.typing as npt


def distance(ours: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
  """Returns the largest difference as a share of the largest wanted value.

  Logits are compared in this way: a relative error an element says nothing where the
  element is close to 0.
  """
  ours, wanted = np.float64(ours), np.float64(wanted)
  return np.abs(ours - wanted).max() / np.abs(wanted).max()
