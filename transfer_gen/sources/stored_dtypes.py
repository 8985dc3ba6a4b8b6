"""In which dtypes a checkpoint holds the leaves that are read as float32."""

import numpy as np

from transfer_gen.sources import source as source_lib

_MANTISSA = 23  # Bits of a float32 behind its first one.


def note(source: source_lib.Source) -> str:
  """Returns a sentence on how leaves become float32; empty if they are so.

  Args:
    source: The source; no array of it is read.
  """
  view = source.view
  specs = source.specs.values() if view is None else [
      view.raw.specs[name] for row in view.rows.values() for name in row.sources]
  dtypes = {spec.dtype for spec in specs} - {np.dtype(np.float32)}
  exact = [dtype for dtype in dtypes if _fits(dtype)]
  said = [f"{', '.join(sorted(map(str, part)))} become float32 {how}"
          for part, how in ((exact, "exactly"), (
              dtypes.difference(exact), "rounded, to the nearest and half to even"))
          if part]
  return f"{source.title}: leaves of {'; of '.join(said)}." if said else ""


def _fits(dtype: np.dtype) -> bool:
  """Whether each number of a dtype is one of float32."""
  # By its size, since `ml_dtypes` has its own types for floats that NumPy lacks: all
  # floats of 16 bits and less have fewer bits for both parts of a number.
  return dtype.itemsize * 8 <= _MANTISSA
