"""Layouts: how a tensor of a foreign checkpoint becomes a leaf of ours.

A layout rearranges one array, or several of one shape, and never computes; NumPy and
jax arrays alike. Its shape comes from `jax.eval_shape`, its inverse from running it
over `arange`, so a new layout is one class here and nothing else. Sizes are the
source's; all dimensions count from 0.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any, dataclass_transform, Protocol, TypeVar

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import plan as plan_lib

Shape = tuple[int, ...]
_Class = TypeVar("_Class")


class Layout(Protocol):
  """A frozen dataclass that rearranges what it is called with."""

  # Any arguments, as the types see it: most layouts take one array, `Stack` several.
  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Rearranges arrays; raises ValueError where they do not fit."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _layout(cls: type[_Class]) -> type[_Class]:
  """A frozen dataclass that plans and maps can hold and read back from JSON."""
  return plan_lib.axis_map(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


@_layout
class Transpose:
  """Dimensions in another order.

  Attributes:
    perm: For each dimension of the result, the source's.
  """
  perm: tuple[int, ...]

  def __call__(self, x):
    if sorted(self.perm) != list(range(x.ndim)):
      raise ValueError(f"perm {self.perm} is no order of {x.ndim} dimensions")
    return x.transpose(self.perm)


@_layout
class Unflatten:
  """One dimension as several, e.g. H * K as (H, K).

  Attributes:
    dim: The dimension.
    shape: What it becomes; sizes are explicit, so that a wrong one shows.
  """
  dim: int
  shape: tuple[int, ...]

  def __call__(self, x):
    if _size(x, self.dim) != math.prod(self.shape) or min(self.shape, default=1) < 0:
      raise ValueError(f"dimension {self.dim} of {x.shape[self.dim]} is not"
                       f" {' x '.join(map(str, self.shape)) or '1'}")
    return x.reshape(x.shape[:self.dim] + tuple(self.shape) + x.shape[self.dim + 1:])


@_layout
class Flatten:
  """Several dimensions as one.

  Attributes:
    dim: The first of them.
    count: How many.
  """
  dim: int
  count: int = 2

  def __call__(self, x):
    end = self.dim + self.count
    if not 0 <= self.dim < end <= x.ndim:
      raise ValueError(f"there are no dimensions {self.dim} to {end - 1}")
    merged = math.prod(x.shape[self.dim:end])
    return x.reshape(x.shape[:self.dim] + (merged,) + x.shape[end:])


@_layout
class Part:
  """One part of a fused tensor, e.g. the keys of a projection to q, k and v.

  Attributes:
    dim: The dimension along which parts lie one after the other.
    parts: How many of one size, or the size of each.
    index: Which.
  """
  dim: int
  parts: int | tuple[int, ...]
  index: int

  def __call__(self, x):
    size, sizes = _size(x, self.dim), self.parts
    if isinstance(sizes, int):
      sizes = (size // max(sizes, 1),) * sizes
    if sum(sizes) != size or min(sizes, default=-1) < 0:
      raise ValueError(f"dimension {self.dim} of {size} does not divide into parts"
                       f" of {sizes}")
    if not 0 <= self.index < len(sizes):
      raise ValueError(f"there is no part {self.index} of {len(sizes)}")
    # A slice of a NumPy array is a view, so parts of a fused tensor cost no copy.
    start = sum(sizes[:self.index])
    return x[(slice(None),) * self.dim + (slice(start, start + sizes[self.index]),)]


@_layout
class Stack:
  """Several leaves as one, e.g. layers.

  Attributes:
    dim: The new dimension, of as many entries as there are leaves.
  """
  dim: int = 0

  def __call__(self, *arrays):
    if len({x.shape for x in arrays}) != 1:
      raise ValueError("leaves of several shapes, or none, do not stack")
    if not 0 <= self.dim <= arrays[0].ndim:
      raise ValueError(f"there is no dimension {self.dim}")
    # np.stack would copy device arrays to the host and fails under `eval_shape`.
    numpy = jnp if any(isinstance(x, jax.Array) for x in arrays) else np
    return numpy.stack(arrays, axis=self.dim)


@_layout
class Unstack:
  """One entry of a dimension, which goes, e.g. one layer.

  Attributes:
    dim: The dimension.
    index: Which entry.
  """
  index: int
  dim: int = 0

  def __call__(self, x):
    if not 0 <= self.index < _size(x, self.dim):
      raise ValueError(f"there is no entry {self.index} of {x.shape[self.dim]}")
    return x[(slice(None),) * self.dim + (self.index,)]


@_layout
class Permute:
  """Entries of a dimension in another order, e.g. gates.

  Attributes:
    dim: The dimension.
    index: For each entry of the result, the source's.
  """
  dim: int
  index: tuple[int, ...]

  def __call__(self, x):
    if sorted(self.index) != list(range(_size(x, self.dim))):
      raise ValueError(f"index {self.index} is no order of {x.shape[self.dim]} entries")
    return x.take(np.asarray(self.index, np.int32), axis=self.dim)


@_layout
class Interleave:
  """Rotary features from halves (a0 a1 .. b0 b1 ..) to pairs (a0 b0 a1 b1 ..).

  Attributes:
    dim: The dimension.
    size: Number of first entries that are rotary; the others stay. 0 means all.
  """
  dim: int
  size: int = 0

  def __call__(self, x):
    pairs = np.arange(_rotary(x, self.dim, self.size)).reshape(2, -1).T
    return _first(x, self.dim, pairs.reshape(-1))


@_layout
class Halve:
  """Rotary features from pairs to halves, see `Interleave`."""
  dim: int
  size: int = 0

  def __call__(self, x):
    halves = np.arange(_rotary(x, self.dim, self.size)).reshape(-1, 2).T
    return _first(x, self.dim, halves.reshape(-1))


@_layout
class Chain:
  """One layout after the other.

  Attributes:
    parts: In the order in which they act; none: a copy as it is.
  """
  parts: tuple[Layout, ...]

  def __call__(self, *arrays):
    for part in self.parts:
      arrays = (part(*arrays),)
    if len(arrays) != 1:
      raise ValueError(f"{len(arrays)} leaves do not become one")
    return arrays[0]


COPY = Chain(parts=())


@functools.lru_cache(maxsize=4096)
def shape(layout: Layout, *shapes: Shape) -> Shape:
  """Returns the shape of a layout's result for arrays of some shapes.

  Raises:
    errors.UserError: If it does not fit them.
  """
  try:
    return jax.eval_shape(
        layout, *(jax.ShapeDtypeStruct(s, np.int8) for s in shapes)).shape
  except (TypeError, ValueError) as error:
    sizes = " and ".join(map(str, dict.fromkeys(shapes)))
    raise errors.UserError(
        f"{describe(layout)} does not fit {sizes}: {error}.") from error


def write(
    layout: Layout,
    value: np.ndarray,
    buffers: Sequence[np.ndarray],
    written: Sequence[np.ndarray],
) -> None:
  """Writes a value back to where a layout reads it; the inverse of a layout.

  Several targets may fill one source, each its part; where two write the same
  element, they must agree bit for bit.

  Args:
    layout: Reads the value from the buffers.
    value: What it would read.
    buffers: C-contiguous, one for each array that the layout takes; filled in.
    written: bool, of the buffers' shapes: which elements are; filled in.

  Raises:
    errors.UserError: If the value's shape is another, or an element has been written
      with other bits.
  """
  wanted = shape(layout, *(b.shape for b in buffers))
  if value.shape != wanted:
    raise errors.UserError(f"{describe(layout)} reads {wanted}, not {value.shape}.")
  assert all(b.flags.c_contiguous for b in (*buffers, *written)), "no views to fill"
  ends = np.cumsum([b.size for b in buffers])
  # Half the memory wherever it suffices: there is one index for each element.
  kind = np.int32 if ends[-1] < 2**31 else np.int64
  index = layout(*(
      np.arange(end - b.size, end, dtype=kind).reshape(b.shape)
      for end, b in zip(ends, buffers))).reshape(-1)
  value = np.ascontiguousarray(value).reshape(-1)
  for end, buffer, done in zip(ends, buffers, written):
    at, mine = index - (end - buffer.size), value
    if len(buffers) > 1:
      here = (at >= 0) & (at < buffer.size)
      at, mine = at[here], value[here]
    _write(mine.astype(buffer.dtype, copy=False), buffer.reshape(-1), at,
           done.reshape(-1))


def describe(layout: Layout) -> str:
  """Describes a layout in words, e.g. for an audit."""
  if isinstance(layout, Chain):
    return ", ".join(describe(part) for part in layout.parts) or "copy"
  return repr(layout)


def _size(x, dim: int) -> int:
  if not 0 <= dim < x.ndim:
    raise ValueError(f"there is no dimension {dim}")
  return x.shape[dim]


def _rotary(x, dim: int, size: int) -> int:
  """Returns how many features are rotary."""
  total = _size(x, dim)
  size = size or total
  if size % 2 or not 0 <= size <= total:
    raise ValueError(f"{size} of {total} entries are no pairs")
  return size


def _first(x, dim: int, index: np.ndarray):
  """Reorders the first entries of a dimension."""
  rest = np.arange(len(index), x.shape[dim])
  return x.take(np.concatenate([index, rest]).astype(np.int32), axis=dim)


def _write(value, buffer, at, done) -> None:
  """Fills a flat buffer; what is written twice must be the same."""
  # Bits and not values: a NaN equals itself, and -0.0 is not 0.0.
  again = done[at]
  if again.any() and (_bits(buffer[at[again]]) != _bits(value[again])).any():
    raise errors.UserError("two leaves disagree on what they share")
  buffer[at], done[at] = value, True


def _bits(x: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(x).view(np.uint8)
