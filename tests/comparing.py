"""Comparisons of results: by a relative distance, or bit for bit."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def distance(ours: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
  """Returns the largest difference as a share of the largest wanted value.

  Logits are compared in this way because a relative error per element says nothing
  where the element is close to 0.
  """
  ours, wanted = np.float64(ours), np.float64(wanted)
  return np.abs(ours - wanted).max() / np.abs(wanted).max()


def assert_same_bits(
    ours: Mapping[str, npt.ArrayLike], wanted: Mapping[str, npt.ArrayLike]
) -> None:
  """Asserts that two trees hold the same names, shapes, dtypes and bits.

  Bits are stricter than numbers: 0 is not -0, and a NaN equals itself.
  """
  assert ours.keys() == wanted.keys()
  for name, value in wanted.items():
    mine, theirs = np.asarray(ours[name]), np.asarray(value)
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), name
    assert mine.tobytes() == theirs.tobytes(), name
