"""Params in narrower dtypes, rounded and never out of range."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_gen import errors

# The values of `--dtype`, which Transformers has too. NumPy knows the second one once
# `ml_dtypes` is imported, as JAX does.
DTYPES = ("float32", "bfloat16", "float16")
_SHOWN = 5  # Leaves in a message.


def rounded(
    params: Mapping[str, Any], dtypes: Mapping[str, np.dtype]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Rounds leaves to the nearest number of a dtype; of two equally near, the even one.

  That is what IEEE 754 calls roundTiesToEven, and what JAX, PyTorch and NumPy do.

  Args:
    params: Leaves by name.
    dtypes: Dtype of each leaf; one that has none here keeps its own.

  Returns:
    The leaves, and a sentence if numbers changed.

  Raises:
    errors.UserError: If a finite number is too large for its dtype; with the leaves.
  """
  found, changed, lost, total, misfits = {}, 0, 0, 0, []
  for name, value in params.items():
    wide = np.asarray(value)
    dtype = dtypes.get(name, wide.dtype)
    with np.errstate(over="ignore", under="ignore"):
      found[name] = narrow = wide.astype(dtype)
    if np.any(np.isfinite(wide) & ~np.isfinite(narrow)):
      largest = np.abs(wide[np.isfinite(wide)]).max()
      misfits.append(f"{name} ({largest:.6g}, of {dtype})")
    back = narrow.astype(wide.dtype)
    changed += int(np.sum((back != wide) & ~np.isnan(wide)))
    lost += int(np.sum((back == 0) & (wide != 0)))
    total += wide.size
  if misfits:
    more = f" and {len(misfits) - _SHOWN} more" if misfits[_SHOWN:] else ""
    raise errors.UserError(
        "Leaves with numbers that are too large for their dtype:"
        f" {', '.join(misfits[:_SHOWN])}{more}. float16 ends at 65504, and bfloat16"
        " where float32 does: take --dtype=bfloat16 or --dtype=float32.")
  names = sorted({str(x.dtype) for x in found.values()})
  zeros = f"; {lost:,} of them are 0 now" if lost else ""
  return found, (
      f"Rounded to {' and '.join(names)}, to the nearest and half to even: {changed:,}"
      f" of {total:,} numbers changed{zeros}.",) if changed else ()
