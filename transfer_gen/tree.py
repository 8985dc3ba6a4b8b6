"""Leaves by name: specs, matching, partition.

A tree of params is handled as a flat dict from leaf name to array. A name is the
keys on the way to the leaf, joined by "/": `layer_0/attn/query/kernel`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import re
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import numpy as np

from transfer_gen import errors


@struct.dataclass
class Axes(nn.LogicallyPartitioned):
  """A box around a param that carries its logical axes.

  Attributes:
    names: One axis name a dimension (inherited), e.g. ("embed", "mlp").
    reads: Names of the axes that this leaf contracts: the kernel of a layer
      reads its input axis and writes its output axis. Where a name stands twice,
      as in a recurrent kernel, the first dimension is the one that reads.
  """
  reads: tuple[str, ...] = struct.field(default=(), pytree_node=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """What is known of a leaf without its data.

  Attributes:
    shape: Sizes.
    dtype: NumPy dtype.
    axes: One logical axis name a dimension.
    reads: For each dimension, whether the leaf contracts it.
  """
  shape: tuple[int, ...]
  dtype: np.dtype
  axes: tuple[str, ...]
  reads: tuple[bool, ...]

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Number of bytes."""
    return self.size * self.dtype.itemsize


# {regex over whole leaf names: axes, or (axes, reads)}; the first match wins.
AxesTable = Mapping[str, tuple]
_NUMBER = re.compile(r"\d+")


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves of any pytree by name; boxes of axes stay around their leaves."""
  leaves = jax.tree_util.tree_flatten_with_path(
      tree, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))[0]
  return {"/".join(_key(k) for k in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The nested dict that `flatten` flattened."""
  nested: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = nested
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return nested


def specs(tree: Any, table: AxesTable | None = None) -> dict[str, Spec]:
  """Specs of a pytree of arrays or shapes.

  Args:
    tree: Arrays or `jax.ShapeDtypeStruct`s, boxed in `Axes` or named by `table`.
    table: Axis names for the leaves without a box.

  Raises:
    errors.UserError: If leaves have no axis names or a wrong number of them.
  """
  result, wrong = {}, []
  for name, leaf in flatten(tree).items():
    value = leaf.value if isinstance(leaf, Axes) else leaf
    axes, reads = _axes(name, leaf, table or {})
    if axes is None or len(axes) != len(value.shape):
      wrong.append(f"{name} {tuple(value.shape)}: axes {axes or 'missing'}")
      continue
    result[name] = Spec(
        shape=tuple(value.shape), dtype=np.dtype(value.dtype), axes=tuple(axes),
        reads=tuple(axis in reads and axes.index(axis) == dim
                    for dim, axis in enumerate(axes)))
  if wrong:
    raise errors.UserError(
        "Every leaf needs one axis name a dimension, from an Axes box or from the"
        " table {regex: axes}:\n  " + "\n  ".join(wrong))
  return result


def unbox(tree: Any) -> dict[str, Any]:
  """Arrays by name, without boxes."""
  return {name: leaf.value if isinstance(leaf, nn.meta.AxisMetadata) else leaf
          for name, leaf in flatten(tree).items()}


def match(patterns: Sequence[str], name: str) -> tuple[int, re.Match] | None:
  """The first pattern that matches the whole of `name`: its index and match."""
  for index, pattern in enumerate(patterns):
    if found := re.fullmatch(pattern, name):
      return index, found
  return None


def fold(names: Iterable[str]) -> list[str]:
  """Names that differ in their numbers alone, as one; each stands for exactly its own.

  `a_0/b`, `a_1/b`, `a_2/b` is `a_{0..2}/b`. The order is that of the first ones.
  """
  groups: dict[str, list[list[str]]] = {}
  for name in dict.fromkeys(names):
    groups.setdefault(_NUMBER.sub("\0", name), []).append(_NUMBER.findall(name))
  return [line for skeleton, numbers in groups.items()
          for line in _fold(skeleton.split("\0"), numbers)]


def partition(
    params: Mapping[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits flat params into those named and the others, both in their order."""
  names = frozenset(names)
  return ({n: x for n, x in params.items() if n in names},
          {n: x for n, x in params.items() if n not in names})


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
  """Joins what `partition` split. The names come in sorted order, as in a pytree."""
  both = {**first, **second}
  assert len(both) == len(first) + len(second), "partitions overlap"
  return dict(sorted(both.items()))


def _fold(between: Sequence[str], numbers: list[list[str]]) -> Iterator[str]:
  """Folds names of one skeleton: the texts between numbers, and the numbers."""
  columns = list(zip(*numbers))
  varying = [i for i, column in enumerate(columns) if len(set(column)) > 1]
  if math.prod(len(set(columns[i])) for i in varying) != len(numbers):
    for value in dict.fromkeys(columns[varying[0]]):
      yield from _fold(between, [n for n in numbers if n[varying[0]] == value])
    return
  shown = [_set(column) if i in varying else column[0]
           for i, column in enumerate(columns)]
  yield "".join(t + n for t, n in itertools.zip_longest(between, shown, fillvalue=""))


def _set(numbers: Iterable[str]) -> str:
  values = sorted(set(map(int, numbers)))
  if values == list(range(values[0], values[-1] + 1)) and len(values) > 2:
    return f"{{{values[0]}..{values[-1]}}}"
  return f"{{{','.join(map(str, values))}}}"


def _key(entry: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def _axes(name: str, leaf: Any, table: AxesTable) -> tuple:
  if isinstance(leaf, Axes):
    return leaf.names, leaf.reads
  found = match(tuple(table), name)
  if found is None:
    return None, ()
  axes = tuple(table.values())[found[0]]
  if axes and not isinstance(axes[0], str):
    return axes
  return axes, ()
