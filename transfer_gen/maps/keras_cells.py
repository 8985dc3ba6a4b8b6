"""Where Keras keeps the weights of a recurrent layer, and in which order.

Axes: D inputs, U units, G gates. A kernel is [D, G U], gates one after the other: i,
f, c, o of an LSTM, as here; z, r, h of a GRU, where ours are r, z, n. cuDNN's form,
which CuDNNLSTM and CuDNNGRU save, lays the numbers of each gate's [D, U] out as [U, D]
and transposes its [U, U]; its bias is doubled.
"""

from collections.abc import Iterable, Mapping, Sequence
import re

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import layouts

# Place in Keras's order of each gate of ours: a GRU of Keras has z before r.
_ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 1, 2, 3)}
_COUNTER = re.compile(r"_\d+$")  # Of a name that was taken in the graph.
Inputs = Sequence[tuple[str, int]]  # Ends of kernels' names here, and features.


def lines(
    target: str, names: Mapping[str, str], model: config_lib.Recurrent, units: int,
    inputs: Inputs, cudnn: bool = False, turned: bool = False,
    reads_turned: bool = False,
) -> list[architecture.Line]:
  """Returns lines for one cell of ours.

  Args:
    target: Name of the cell, e.g. `layer_0/cell`.
    names: Names in the checkpoint of `kernel`, `recurrent_kernel` and, if any, `bias`.
    model: The model that the cell belongs to.
    units: U.
    inputs: What the cell reads, in the order in which Keras concatenates it.
    cudnn: Whether the weights are in cuDNN's form. Default: False.
    turned: Whether its units are those of two directions, which lie one after the other
      in Keras and alternate here. Default: False.
    reads_turned: Whether so are the units that it reads. Default: False.
  """
  gates = len(_ORDER[model.cell])
  split = layouts.Unflatten(dim=1, shape=(gates, units))
  sizes = tuple(size for _, size in inputs)
  total = sum(sizes)
  turn = lambda *dims: [layouts.Interleave(dim=d) for d in dims] if turned else []
  read = [layouts.Interleave(dim=0)] if reads_turned else []
  # cuDNN stores each gate as [U, D], and Keras declares those numbers as [D, U] without
  # moving them. So the input kernel needs a reshape and then a transpose; the recurrent
  # one is square and needs the transpose alone.
  relaid, transposed = [], []
  if cudnn:
    relaid = [
        layouts.Transpose(perm=(1, 0, 2)), layouts.Flatten(dim=1),
        layouts.Unflatten(dim=1, shape=(units, total)),
        layouts.Transpose(perm=(2, 0, 1))]
    transposed = [layouts.Transpose(perm=(2, 1, 0))]
  found = [
      # Inputs are split last: in cuDNN's form, rows of several inputs are interleaved
      # until all of the kernel is relaid.
      line(f"{target}/input_kernel{end}", names["kernel"],
            [split, *relaid, *_gates(model, 1), *part(sizes, i), *turn(2), *read])
      for i, (end, _) in enumerate(inputs)]
  found.append(line(
      f"{target}/recurrent_kernel", names["recurrent_kernel"],
      [split, *transposed, *_gates(model, 1), *turn(0, 2)]))
  return found + _biases(target, names, model, units, cudnn, turn(1))


def line(
    target: str, source: str, parts: Sequence[layouts.Layout]
) -> architecture.Line:
  """Returns the line for one leaf of ours, by its name and that in the checkpoint."""
  return architecture.Line(target=re.escape(target), source=source.replace("\\", r"\\"),
                           layout=layouts.Chain(parts=tuple(parts)))


def part(sizes: Sequence[int], index: int) -> list[layouts.Layout]:
  """Returns the layout that takes one input's rows of a kernel, if it has several."""
  sizes = tuple(sizes)
  return [layouts.Part(dim=0, parts=sizes, index=index)] if len(sizes) > 1 else []


def affine(
    target: str, names: Mapping[str, str], inputs: Inputs, turned: bool = False
) -> list[architecture.Line]:
  """Returns lines for a Dense layer; the arguments are those of `lines`."""
  sizes = [size for _, size in inputs]
  turn = [layouts.Interleave(dim=0)] if turned else []
  found = [line(f"{target}/kernel{end}", names["kernel"], [*part(sizes, i), *turn])
           for i, (end, _) in enumerate(inputs)]
  if "bias" in names:
    found.append(line(f"{target}/bias", names["bias"], []))
  return found


def average(target: str, source: str, inputs: Inputs) -> list[architecture.Line]:
  """Returns lines for the scores of an average: a column [D, 1] over all inputs."""
  sizes = [size for _, size in inputs]
  return [line(f"{target}/kernel{end}", source,
                [*part(sizes, i), layouts.Unstack(dim=1, index=0)])
          for i, (end, _) in enumerate(inputs)]


def ways(bidirectional: bool) -> dict[str, str]:
  """Returns our cells of a layer, each with the direction that Keras names it by."""
  return {"cell": "forward", "backward": "backward"} if bidirectional else {"cell": ""}


def weights(names: Iterable[str], layer: str, way: str = "") -> dict[str, str]:
  """Returns the names of a layer's weights in Keras 2's form, by their role.

  Args:
    names: All names in the checkpoint, e.g. `lstm/kernel`.
    layer: Name of the layer.
    way: `forward` or `backward` for a Bidirectional layer, else "".
  """
  found = {}
  for name in names:
    first, *rest = name.split("/")
    if first == layer and rest and rest[0].startswith(way):
      found[_COUNTER.sub("", rest[-1])] = name
  return found


def _biases(target, names, model, units, cudnn, turn) -> list[architecture.Line]:
  if "bias" not in names:
    return []
  gates = len(_ORDER[model.cell])
  # cuDNN adds one bias to the product with the input and one to that with the state.
  # They are kept apart: layouts do not add, and a GRU that resets after the product
  # scales only the second one.
  twice = model.recurrent_bias or (model.cell == "gru" and model.reset_after)
  found = []
  for index, ours in enumerate(("bias", "recurrent_bias")[:1 + twice]):
    split = [layouts.Unflatten(dim=0, shape=(gates, units))]
    # cuDNN's two biases are one vector [2 G U]; those of Keras's own GRU are [2, G U].
    if twice and cudnn:
      split = [layouts.Part(dim=0, parts=2, index=index), *split]
    elif twice:
      split = [layouts.Unstack(index=index), *split]
    found.append(line(
        f"{target}/{ours}", names["bias"], [*split, *_gates(model, 0), *turn]))
  return found


def _gates(model, dim) -> list[layouts.Layout]:
  index = _ORDER[model.cell]
  return [] if index == tuple(range(len(index))) else [
      layouts.Permute(dim=dim, index=index)]
