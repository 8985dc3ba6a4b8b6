"""Trees of params as flat dicts: names, specs, matching and partition.

A tree of params is a flat dict from leaf names to arrays. A name joins the keys on the
way to the leaf by "/", e.g. `layer_0/attn/query/kernel`.
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
    names: One axis name per dimension (inherited), e.g. ("embed", "mlp").
    reads: Names of the axes that this leaf contracts: the kernel of a layer reads its
      input axis and writes its output axis. If a name occurs twice, as in a recurrent
      kernel, its first dimension is the one that reads.
  """
  # Static, like Flax's own `names`: jit and grad must see the value alone.
  reads: tuple[str, ...] = struct.field(default=(), pytree_node=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """Describes a leaf without its data.

  Attributes:
    shape: Size of each dimension.
    dtype: NumPy dtype.
    axes: Logical axis name of each dimension.
    reads: Whether the leaf contracts each dimension.
  """
  shape: tuple[int, ...]
  dtype: np.dtype
  axes: tuple[str, ...]
  reads: tuple[bool, ...]

  @property
  def size(self) -> int:
    """The number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """The number of bytes."""
    return self.size * self.dtype.itemsize


# {regex for whole leaf names: axes, or (axes, reads)}; the first match wins.
AxesTable = Mapping[str, tuple[Any, ...]]
_NUMBER = re.compile(r"\d+")


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves of any pytree by name; boxes stay around their leaves.

  >>> flatten({"embed": {"kernel": 1}, "layers": [2, 3]})
  {'embed/kernel': 1, 'layers/0': 2, 'layers/1': 3}
  """
  # A box is a pytree itself: without `is_leaf` only its value would come back, and the
  # axes would be lost.
  leaves = jax.tree_util.tree_flatten_with_path(
      tree, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))[0]
  return {"/".join(_key(k) for k in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested dict that has these names.

  >>> unflatten({"embed/kernel": 1, "layers/0": 2})
  {'embed': {'kernel': 1}, 'layers': {'0': 2}}
  """
  nested: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = nested
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return nested


def specs(tree: Any, table: AxesTable | None = None) -> dict[str, Spec]:
  """Returns the specs of a pytree of arrays or shapes.

  >>> params = {"dense": {"kernel": np.ones((2, 3), np.float32)}}
  >>> found = specs(params, {".*/kernel": (("embed", "mlp"), ("embed",))})
  >>> found["dense/kernel"].shape, found["dense/kernel"].reads
  ((2, 3), (True, False))

  Args:
    tree: Arrays or `jax.ShapeDtypeStruct`s, in `Axes` boxes or matched by `table`.
    table: Axis names, and optionally the axes that are read, for leaves without a box.

  Raises:
    errors.UserError: If a leaf has no axis names or a wrong number of them.
  """
  # Mistakes are collected, so that one error lists every leaf that has no axes.
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
        "Every leaf needs one axis name per dimension, from an Axes box or from the"
        " table {regex: axes}:\n  " + "\n  ".join(wrong))
  return result


def unbox(tree: Any) -> dict[str, Any]:
  """Returns the arrays of a pytree by name, without boxes."""
  # Not Flax's `unbox()`, which adds a sharding constraint when a mesh is set.
  value = lambda box: box.value
  return {name: value(leaf) if isinstance(leaf, nn.meta.AxisMetadata) else leaf
          for name, leaf in flatten(tree).items()}


def match(patterns: Sequence[str], name: str) -> tuple[int, re.Match] | None:
  """Returns the index and the match of the first pattern for the whole of `name`.

  >>> index, found = match(["head/.*", "layer_([0-9]+)/.*"], "layer_7/mlp/up/kernel")
  >>> index, found[1]
  (1, '7')
  """
  # The whole name, so that `head` does not also own `lm_head` or `head/bias`. Patterns
  # stay text in plans; `re` keeps those that it compiled.
  for index, pattern in enumerate(patterns):
    if found := re.fullmatch(pattern, name):
      return index, found
  return None


def fold(names: Iterable[str]) -> list[str]:
  """Folds names that differ only in their numbers into one each.

  A folded name stands for exactly the names that were given, no others.

  >>> fold(["a_0/b", "a_1/b", "a_2/b", "c"])
  ['a_{0..2}/b', 'c']
  >>> fold(["a_0/b_0", "a_1/b_1"])
  ['a_0/b_0', 'a_1/b_1']
  """
  groups: dict[str, list[list[str]]] = {}
  # NUL stands for the numbers, because no leaf name contains it.
  for name in dict.fromkeys(names):
    groups.setdefault(_NUMBER.sub("\0", name), []).append(_NUMBER.findall(name))
  return [line for skeleton, numbers in groups.items()
          for line in _fold(skeleton.split("\0"), numbers)]


def partition(
    params: Mapping[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits flat params into the named ones and the others; both keep their order.

  >>> partition({"a": 1, "b": 2, "c": 3}, ["b"])
  ({'b': 2}, {'a': 1, 'c': 3})
  """
  names = frozenset(names)
  return ({n: x for n, x in params.items() if n in names},
          {n: x for n, x in params.items() if n not in names})


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
  """Joins what `partition` split; names come in sorted order, as in a pytree.

  >>> merge({"b": 2}, {"a": 1, "c": 3})
  {'a': 1, 'b': 2, 'c': 3}
  """
  both = {**first, **second}
  assert len(both) == len(first) + len(second), "partitions overlap"
  return dict(sorted(both.items()))


def _fold(between: Sequence[str], numbers: list[list[str]]) -> Iterator[str]:
  """Folds names that share the texts between their numbers."""
  columns = list(zip(*numbers))
  varying = [i for i, column in enumerate(columns) if len(set(column)) > 1]
  # One folded name stands for every combination of its numbers. If some combination
  # is not there, the names are split by their first number that varies.
  if math.prod(len(set(columns[i])) for i in varying) != len(numbers):
    for value in dict.fromkeys(columns[varying[0]]):
      yield from _fold(between, [n for n in numbers if n[varying[0]] == value])
    return
  shown = [_set(column) if i in varying else column[0]
           for i, column in enumerate(columns)]
  yield "".join(t + n for t, n in itertools.zip_longest(between, shown, fillvalue=""))


def _set(numbers: Iterable[str]) -> str:
  # By value, because as text 10 would come before 2.
  values = sorted(set(map(int, numbers)))
  if values == list(range(values[0], values[-1] + 1)) and len(values) > 2:
    return f"{{{values[0]}..{values[-1]}}}"
  # {0,1} is shorter than {0..1}, and says at once that there are two.
  return f"{{{','.join(map(str, values))}}}"


def _key(entry: Any) -> str:
  # Of a dict, of an attribute and of a sequence, in this order.
  for attribute in ("key", "name", "idx"):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def _axes(name: str, leaf: Any, table: AxesTable) -> tuple[Any, Any]:
  if isinstance(leaf, Axes):
    return leaf.names, leaf.reads
  found = match(tuple(table), name)
  if found is None:
    return None, ()
  axes: Any = tuple(table.values())[found[0]]
  # The first element shows whether these are (axes, reads) or plain axes; those of a
  # scalar are ().
  if axes and not isinstance(axes[0], str):
    return axes
  return axes, ()
