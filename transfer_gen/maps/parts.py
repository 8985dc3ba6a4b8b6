"""Parts of leaves: what the devices of a process need of a checkpoint's leaves.

A part is the outer product of some entries of each dimension. A process reads the part
of each leaf that its own devices hold, and no more.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

import jax
import numpy as np

from transfer_gen import errors
from transfer_gen.formats import ranges
from transfer_gen.maps import layouts

Entries = ranges.Entries
# What is taken of a leaf before it is placed: for some dimensions, i32[N], the entry of
# the leaf for each of N entries; -1 gives zeros.
Pick = Mapping[int, np.ndarray]
Shardings = Mapping[str, jax.sharding.Sharding]
_Box = tuple[slice, ...]


class Part(NamedTuple):
  """A part of a leaf.

  Attributes:
    entries: Which entries of each dimension.
    value: They, in this order.
  """
  entries: Entries
  value: np.ndarray


def whole(value: np.ndarray) -> Part:
  """Returns a leaf as the part that is all of it."""
  return Part(ranges.everything(value.shape), value)


def picked_shape(shape: Sequence[int], pick: Pick) -> tuple[int, ...]:
  """Returns the shape of what is taken of a leaf."""
  return tuple(len(pick[dim]) if dim in pick else size
               for dim, size in enumerate(shape))


def wanted(
    shape: Sequence[int], sharding: jax.sharding.Sharding | None, pick: Pick
) -> Entries:
  """Returns which entries of a leaf the devices of this process need.

  Args:
    shape: Shape of the leaf.
    sharding: Where what is taken of it is placed. None means a single device.
    pick: What is taken.
  """
  after = picked_shape(shape, pick)
  if sharding is None:
    return of_boxes(shape, [tuple(slice(0, size) for size in after)], pick)
  return of_boxes(shape, list(filter(
      None, sharding.addressable_devices_indices_map(after).values())), pick)


def of_boxes(shape: Sequence[int], boxes: Sequence[_Box], pick: Pick) -> Entries:
  """Returns which entries of a leaf some boxes need of what is taken of it."""
  masks = [np.zeros(size, bool) for size in shape]
  for box in boxes:
    for dim, mask in enumerate(masks):
      if dim not in pick:
        mask[box[dim]] = True
        continue
      mine = pick[dim][box[dim]]
      mask[mine[mine >= 0]] = True
  return tuple(map(np.flatnonzero, masks))


def union(shape: Sequence[int], parts: Sequence[Entries]) -> Entries:
  """Returns the smallest part that holds all of some parts."""
  masks = [np.zeros(size, bool) for size in shape]
  for mask, *mine in zip(masks, *parts):
    for entries in mine:
      mask[entries] = True
  return tuple(map(np.flatnonzero, masks))


def place(
    part: Part, shape: Sequence[int], sharding: jax.sharding.Sharding | None, pick: Pick
) -> jax.Array:
  """Places what is taken of a leaf.

  Args:
    part: What the devices of this process need of the leaf.
    shape: Shape of the leaf.
    sharding: Where each device's part goes. If None, all go to the default device.
    pick: What is taken.
  """
  after = picked_shape(shape, pick)
  if sharding is None:
    return jax.device_put(_taken(part, tuple(slice(0, n) for n in after), pick))
  # Each device receives only the part that its sharding gives it.
  return jax.make_array_from_callback(
      after, sharding, lambda box: _taken(part, box or (), pick))


def place_whole(
    name: str, value: np.ndarray, shardings: Shardings | None,
    picks: Mapping[str, Pick] | None
) -> jax.Array:
  """Places what is taken of a leaf that is on the host; arguments as of a source."""
  where = shardings[name] if shardings else None
  if picks is None or name not in picks:
    return jax.device_put(value, where)
  return place(whole(value), value.shape, where, picks[name])


def needed(
    layout: layouts.Layout, shapes: Sequence[layouts.Shape], entries: Entries
) -> tuple[Entries, ...]:
  """Returns which entries of its sources a layout reads for a part of the target.

  Dimensions that a layout passes on as they are, which is seen by making them 1,
  take no memory here; the others take as many numbers as they have entries together.

  Args:
    layout: How the target is made of the sources.
    shapes: Shapes of the sources.
    entries: The part of the target.

  Returns:
    For each source, the smallest part that holds all that is needed; without entries
    where nothing is.
  """
  nothing = tuple(np.zeros(0, np.int64) for _ in shapes[0])
  if any(not len(mine) for mine in entries):
    return (nothing,) * len(shapes)
  passed = _passed(layout, tuple(shapes))
  small = [tuple(1 if d in passed else n for d, n in enumerate(s)) for s in shapes]
  cut = tuple(np.zeros(1, np.int64) if t in passed.values() else mine
              for t, mine in enumerate(entries))
  made = lambda arrays: ranges.pick(layout(*arrays), cut)
  origin = made([np.broadcast_to(np.int32(i), s) for i, s in enumerate(small)])
  found = []
  for i, shape in enumerate(small):
    mine = origin == i
    if not mine.any():
      found.append(nothing)
      continue
    found.append(tuple(
        entries[passed[dim]] if dim in passed else
        np.unique(made([_numbers(s, dim) for s in small])[mine])
        for dim in range(len(shape))))
  return tuple(found)


def made(
    layout: layouts.Layout, shapes: Sequence[layouts.Shape], entries: Entries,
    sources: Sequence[Part],
) -> Part:
  """Makes a part of the target of parts of the sources.

  Args:
    layout: How the target is made of the sources.
    shapes: Shapes of the sources.
    entries: The part of the target.
    sources: Of each source, a part that holds what `needed` names.
  """
  passed = _passed(layout, tuple(shapes))
  buffers = []
  for shape, source in zip(shapes, sources, strict=True):
    if ranges.is_everything(source.entries, shape) and all(
        len(entries[t]) == shape[dim] for dim, t in passed.items()):
      buffers.append(source.value)
      continue
    mine = tuple(entries[passed[dim]] if dim in passed else held
                 for dim, held in enumerate(source.entries))
    # Elements that no one has read are not used: what is not needed is cut off below.
    buffers.append(np.empty(
        [len(mine[dim]) if dim in passed else size for dim, size in enumerate(shape)],
        source.value.dtype))
    if source.value.size and all(map(len, mine)):
      at = [np.arange(len(mine[dim])) if dim in passed else held
            for dim, held in enumerate(source.entries)]
      # A source that another leaf has needed may lack what this one does not need.
      buffers[-1][np.ix_(*at)] = ranges.pick(source.value, tuple(
          np.minimum(np.searchsorted(held, need), len(held) - 1)
          for held, need in zip(source.entries, mine)))
  return Part(entries, ranges.pick(layout(*buffers), tuple(
      np.arange(len(mine)) if t in passed.values() else mine
      for t, mine in enumerate(entries))))


def _taken(part: Part, box: _Box, pick: Pick) -> np.ndarray:
  """Returns a box of what is taken of a leaf."""
  value = part.value
  for dim, held in enumerate(part.entries):
    if dim not in pick:
      start, stop, _ = box[dim].indices(int(held[-1]) + 1 if len(held) else 0)
      at = slice(np.searchsorted(held, start), np.searchsorted(held, stop))
      value = value[(slice(None),) * dim + (at,)]
      continue
    mine = pick[dim][box[dim]]
    fresh = mine < 0
    if not len(held):
      shape = (*value.shape[:dim], len(mine), *value.shape[dim + 1:])
      value = np.zeros(shape, value.dtype)
      continue
    value = ranges.pick(value, (
        *map(np.arange, value.shape[:dim]), np.searchsorted(held, np.where(
            fresh, held[0], mine)), *map(np.arange, value.shape[dim + 1:])))
    if fresh.any():
      value = value.copy()
      value[(slice(None),) * dim + (fresh,)] = 0
  return value


def _numbers(shape: layouts.Shape, dim: int) -> np.ndarray:
  """Returns an array of a shape in which each element is its entry of a dimension."""
  return np.broadcast_to(np.arange(shape[dim], dtype=np.int32).reshape(
      [-1] + [1] * (len(shape) - dim - 1)), shape)


@functools.lru_cache(maxsize=4096)
def _passed(
    layout: layouts.Layout, shapes: tuple[layouts.Shape, ...]) -> dict[int, int]:
  """Dimensions of the sources that are dimensions of the target, as they are.

  Made 1 in the sources, such a one becomes 1 in the target and nothing else changes.
  A layout that takes a dimension apart, reorders or merges it has sizes that do not
  fit then, or shows in another dimension, or meets another one in the same.
  """
  if len(set(shapes)) > 1:
    return {}
  target, passed = layouts.shape(layout, *shapes), {}
  for dim, size in enumerate(shapes[0]):
    one = shapes[0][:dim] + (1,) + shapes[0][dim + 1:]
    try:
      small = layouts.shape(layout, *(one,) * len(shapes))
    except errors.UserError:
      continue
    changed = [t for t, (n, m) in enumerate(zip(target, small)) if n != m]
    if (len(small) == len(target) and len(changed) == 1
        and (target[changed[0]], small[changed[0]]) == (size, 1)):
      passed[dim] = changed[0]
  meets = list(passed.values())
  return {dim: t for dim, t in passed.items() if meets.count(t) == 1}
