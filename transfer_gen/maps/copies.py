"""Compares leaves of a checkpoint that are stored twice."""

from collections.abc import Sequence
import logging
import re
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen.maps import parts


def compare(
    copies: Sequence[Sequence[str]], stale: Sequence[Sequence[str]], raw: Any,
    name: str, part: parts.Part
) -> None:
  """Compares what was read of a leaf with the same part of its copies.

  Args:
    copies: Groups of names of one leaf, as of `mapped.Map`.
    stale: Pairs of a leaf and one that was made of it, as of `mapped.Map`; where they
      differ, that is logged.
    raw: The checkpoint.
    name: Name of the leaf.
    part: What was read of it.

  Raises:
    errors.UserError: If a copy has other numbers.
  """
  def differs(other: str) -> bool:
    ((_, value),) = raw.read([other], {other: part.entries})
    return not np.array_equal(part.value, value, equal_nan=True)

  for group in copies:
    for other in group if name in group else ():
      if other != name and other in raw.specs and differs(other):
        first, second = sorted((name, other), key=list(group).index)
        raise errors.UserError(
            f"{first} and {second} are one table in the model that the checkpoint's"
            " config describes, and differ. If one of them is not in use, say so:"
            f" --unused='{re.escape(second)}' of `inspect` and `convert`, or"
            " source.unused in a config.")
  for pair in stale:
    if pair[0] == name and pair[1] in raw.specs and differs(pair[1]):
      logging.getLogger(__name__).warning(
          "%s and %s differ: the first is read, the second was made of it.", *pair)
