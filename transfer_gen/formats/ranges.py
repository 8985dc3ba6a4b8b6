"""Which bytes of a file hold some entries of an array that lies in it.

Whoever reads a part of an array names the entries of each dimension that it needs; the
part is their outer product, as `numpy.ix_` takes it.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

# For each dimension: i64[n], the entries that are needed, rising and without doubles.
Entries = tuple[np.ndarray, ...]
_GAP = 2**16  # Bytes; a longer gap costs more than another call.
_SPARE = 16  # Gaps that are read add up to at most this part of what is needed.


class Ranges(NamedTuple):
  """Byte ranges, in rising order and without overlaps.

  Attributes:
    starts: i64[R], where each begins.
    sizes: i64[R], how many bytes each has.
  """
  starts: np.ndarray
  sizes: np.ndarray


def everything(shape: Sequence[int]) -> Entries:
  """Returns all entries of each dimension."""
  return tuple(np.arange(size) for size in shape)


def is_everything(entries: Entries, shape: Sequence[int]) -> bool:
  """Returns whether entries are all that a shape has."""
  return all(len(mine) == size for mine, size in zip(entries, shape, strict=True))


def pick(value: np.ndarray, at: Entries) -> np.ndarray:
  """Returns entries of an array by their positions; a view where it can be one.

  >>> value = np.arange(12).reshape(3, 4)
  >>> pick(value, (np.array([2, 0]), np.array([1, 2]))).tolist()
  [[9, 10], [1, 2]]
  """
  for dim, mine in enumerate(at):
    if not len(mine) or (np.diff(mine) == 1).all():
      start = int(mine[0]) if len(mine) else 0
      value = value[(slice(None),) * dim + (slice(start, start + len(mine)),)]
    else:
      value = value.take(mine, axis=dim)
  return value


def of(shape: Sequence[int], itemsize: int, entries: Entries) -> Ranges:
  """Returns the byte ranges of entries of an array in C order, from its beginning.

  >>> rows, columns = np.array([0, 1, 3]), np.array([2, 3])
  >>> starts, sizes = of((4, 4), 1, (rows, columns))
  >>> starts.tolist(), sizes.tolist()
  ([2, 6, 14], [2, 2, 2])
  >>> starts, sizes = of((4, 4), 1, (rows, np.arange(4)))
  >>> starts.tolist(), sizes.tolist()
  ([0, 12], [8, 4])
  """
  if any(not len(mine) for mine in entries):
    return Ranges(np.zeros(0, np.int64), np.zeros(0, np.int64))
  # Dimensions behind the last one that is cut are bytes of one block.
  cut = max((dim + 1 for dim, mine in enumerate(entries) if len(mine) < shape[dim]),
            default=0)
  starts = np.zeros(1, np.int64)
  for dim in range(cut):
    step = math.prod(shape[dim + 1:]) * itemsize
    starts = (starts[:, None] + np.asarray(entries[dim], np.int64) * step).reshape(-1)
  block = math.prod(shape[cut:]) * itemsize
  return _joined(Ranges(starts, np.full(len(starts), block, np.int64)),
                 np.zeros(len(starts) - 1, bool))


def bridged(found: Ranges) -> Ranges:
  """Joins ranges over short gaps between them, which takes fewer calls to read.

  The shortest gaps are taken, as many as add up to a sixteenth of what is needed.

  >>> starts, sizes = bridged(Ranges(np.array([0, 65, 300]), np.array([64, 64, 8])))
  >>> starts.tolist(), sizes.tolist()
  ([0, 300], [129, 8])
  """
  gaps = found.starts[1:] - (found.starts + found.sizes)[:-1]
  order = np.argsort(gaps, kind="stable")
  joins = np.zeros(len(gaps), bool)
  joins[order] = np.cumsum(gaps[order]) * _SPARE <= found.sizes.sum()
  return _joined(found, joins & (gaps <= _GAP))


def _joined(found: Ranges, joins: np.ndarray) -> Ranges:
  """Joins each range to the one before it, where `joins` says so or they touch."""
  ends = found.starts + found.sizes
  begins = np.concatenate(
      [[True], ~(joins | (found.starts[1:] == ends[:-1]))])[:len(ends)]
  first = np.flatnonzero(begins)
  last = np.append(first[1:], len(ends)) - 1
  return Ranges(found.starts[first], ends[last] - found.starts[first])
