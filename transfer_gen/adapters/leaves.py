"""Lists the leaves of an adapter beside a kernel: their axes and initial values."""

from collections.abc import Iterator, Mapping
import dataclasses

from flax import linen as nn
import jax
import numpy as np

from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.models import layers

Adapter = config_adapters.Adapter


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A param of an adapter.

  Attributes:
    shape: Sizes of the dimensions.
    axes: Logical axes of the dimensions: those of the kernel, `rank`, or `prefix`.
    reads: Axes that a product with the leaf contracts.
    init: Initializer.
  """
  shape: tuple[int, ...]
  axes: tuple[str, ...]
  reads: tuple[str, ...]
  init: nn.initializers.Initializer

  def box(self) -> tree.Axes:
    """Returns the leaf's shape and dtype, boxed with its axes."""
    return tree.Axes(jax.ShapeDtypeStruct(self.shape, np.float32), names=self.axes,
                     reads=self.reads)

  def draw(self, key: jax.Array) -> tree.Axes:
    """Returns the leaf's initial value, boxed with its axes."""
    return self.box().replace(value=self.init(key, self.shape))


def by_part(
    adapter: config_adapters.Adapter, name: str, kernel: tree.Spec
) -> dict[str, Leaf]:
  """Returns an adapter's leaves beside a kernel, by their part of the name."""
  split = num_inputs(kernel)
  dims = tuple(zip(kernel.shape, kernel.axes, kernel.reads))
  inputs, outputs = dims[:split], dims[split:]
  if isinstance(adapter, config_adapters.LoRA):
    # A is initialized as in PEFT, by kaiming_uniform with a = sqrt(5): uniform within
    # 1 / sqrt(I). B is zero, so that the product is zero at first. So is the magnitude
    # of DoRA, which is kept as the difference from the norms of the kernel's columns.
    start = nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform", in_axis=tuple(range(split)))
    found = {"a": _leaf(start, inputs, _rank(adapter.rank, False)),
             "b": _leaf(_ZEROS, _rank(adapter.rank, True), outputs)}
    return found | ({"magnitude": _leaf(_ZEROS, outputs)} if adapter.dora else {})
  if isinstance(adapter, config_adapters.IA3):
    # It multiplies entry by entry, so no product contracts an axis of it.
    return {"scale": _leaf(
        nn.initializers.ones, _read(inputs if scales_inputs(adapter, name) else outputs,
                                    False))}
  if isinstance(adapter, config_adapters.Prefix):
    start = nn.initializers.normal(layers.TABLE_STDDEV)
    rows = ((adapter.length, "prefix", False),)
    return {part: _leaf(start, rows, outputs) for part in adapter.PARTS}
  # Zeros behind the bottleneck make the adapter the identity at first.
  start = nn.initializers.truncated_normal(layers.TABLE_STDDEV)
  return {"down": _leaf(start, _read(outputs, True), _rank(adapter.width, False)),
          "down_bias": _leaf(_ZEROS, _rank(adapter.width, False)),
          "up": _leaf(_ZEROS, _rank(adapter.width, True), outputs),
          "up_bias": _leaf(_ZEROS, outputs)}


def beside(
    adapters: tuple[config_adapters.Adapter, ...], specs: Mapping[str, tree.Spec]
) -> Iterator[tuple[config_adapters.Adapter, str, tree.Spec]]:
  """Yields every adapter with every kernel that it acts on, in the adapters' order."""
  # Adapters on the outside: each acts around all before it, on whatever kernel.
  for adapter in adapters:
    for name, spec in specs.items():
      if acts(adapter, name) and is_kernel(name, spec):
        yield adapter, name, spec


def acts(adapter: config_adapters.Adapter, kernel: str) -> bool:
  """Returns whether an adapter acts on the kernel of this name."""
  patterns = [adapter.params]
  if isinstance(adapter, config_adapters.IA3):
    patterns.append(adapter.inputs)
  return tree.match(patterns, kernel) is not None


# A kernel that both patterns match is scaled at its outputs, as `params` comes first.
def scales_inputs(adapter: config_adapters.IA3, kernel: str) -> bool:
  """Returns whether an adapter scales a kernel's inputs instead of its outputs."""
  return tree.match([adapter.params], kernel) is None


def is_kernel(name: str, spec: tree.Spec) -> bool:
  """Returns whether adapters can act on a leaf.

  >>> spec = tree.Spec(shape=(2, 3), dtype=np.dtype("f4"), axes=("embed", "mlp"),
  ...                  reads=(True, False))
  >>> is_kernel("mlp/up/kernel", spec), is_kernel("embed/embedding", spec)
  (True, False)
  """
  # `in`, because cells have an `input_kernel` and a `recurrent_kernel`.
  return "kernel" in name.rpartition("/")[2] and len(spec.shape) > 1


def num_inputs(kernel: tree.Spec) -> int:
  """Returns how many of its first dimensions a kernel contracts; 1 for a table.

  >>> num_inputs(tree.Spec(
  ...     shape=(4, 2, 8), dtype=np.dtype("f4"), axes=("heads", "kv", "embed"),
  ...     reads=(True, True, False)))
  2
  """
  read = next((i for i, read in enumerate(kernel.reads) if not read), 1)
  # A table contracts nothing; its rows are looked up by their first dimension.
  return max(read, 1)


# For what is added to a layer's result, which is at first as it was without. A prefix
# has no such start: keys of zeros would still take their share of the attention.
_ZEROS = nn.initializers.zeros


def _rank(size, read):
  return ((size, "rank", read),)


def _read(dims, read):
  return tuple((size, axis, read) for size, axis, _ in dims)


def _leaf(init, *parts) -> Leaf:
  """Returns a leaf of dimensions (size, axis, whether it is read)."""
  dims = sum(parts, ())
  return Leaf(shape=tuple(size for size, _, _ in dims),
              axes=tuple(axis for _, axis, _ in dims),
              reads=tuple(axis for _, axis, read in dims if read), init=init)
