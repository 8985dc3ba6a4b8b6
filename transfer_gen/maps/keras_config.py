"""Reads a Keras model's own config: its layers, their fields, where weights lie.

The config is in the file, or lies beside weights alone as `config.json` (what
`model.to_json()` gives).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any

from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_cells

CELLS = {"SimpleRNN": "rnn", "GRU": "gru", "LSTM": "lstm", "CuDNNGRU": "gru",
         "CuDNNLSTM": "lstm"}
ATTENTIONS = ("Attention", "AdditiveAttention")
IDLE = ("Dropout", "SpatialDropout1D")  # Layers that act only in training.
HIDDEN = ("relu", "tanh", "sigmoid", "linear")  # Activations of a hidden layer.
_NUMBERED = re.compile(r"(.*/)?layers/.*/vars/\d+")
# How weights of a graph of Python objects are named, by versions of Keras and of
# TensorFlow: by the attributes that lead to them, which only the model's code knows.
_GRAPH = re.compile(
    r"(.*/)?(_layer_checkpoint_dependencies|_self_\w+|layer(_with_weights)?-\d+|"
    r"\.ATTRIBUTES|_CHECKPOINTABLE_OBJECT_GRAPH)(/.*)?|.*/vars/\d+")
# Acts in training alone, or says how and not what is computed.
_SILENT = {
    "name", "trainable", "dtype", "dropout", "recurrent_dropout", "seed", "rate",
    "noise_shape", "unroll", "implementation", "stateful", "zero_output_for_mask",
    "unit_forget_bias", "batch_shape", "batch_input_shape", "input_shape",
    "input_length", "sparse", "ragged", "optional", "return_sequences",
    "return_state"} | {f"{of}_{what}" for of in (
        "kernel", "recurrent", "bias", "embeddings", "activity")
        for what in ("initializer", "regularizer", "constraint")}
# Fields of what is known; layers of other classes are refused by their class.
_READ: dict[str, set[str]] = {
    "InputLayer": set(), **dict.fromkeys(IDLE, set()),
    "Embedding": {"input_dim", "output_dim"},
    "Dense": {"units", "activation", "use_bias"},
    "Activation": {"activation"},
    "Concatenate": {"axis"},
    "Attention": {"use_scale", "score_mode"},
    "AdditiveAttention": {"use_scale"},
    **dict.fromkeys(CELLS, {
        "units", "activation", "recurrent_activation", "use_bias", "reset_after"}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
  """One layer of a Keras model.

  Attributes:
    name: Name of the layer in the model.
    kind: Class of the layer; for a wrapper, that of the layer inside.
    fields: Config of the layer of that class.
    wrapper: `Bidirectional`, `TimeDistributed` or "".
    place: Group of the layer in a Keras 3 file, e.g. `lstm_1`.
    inputs: (layer, output) of each tensor that it reads; in a Sequential model, the
      layer before it.
    arguments: Names of arguments, other than tensors, with which it is called and which
      are set.
  """
  name: str
  kind: str
  fields: Mapping[str, Any]
  wrapper: str
  place: str
  inputs: tuple[tuple[str, int], ...]
  arguments: frozenset[str]

  def __str__(self) -> str:
    return f"layer {self.name} ({self.kind})"


def config(raw: architecture.Raw) -> Mapping[str, Any] | None:
  """Returns the model's config, or None if there is none."""
  if "model_config" in raw.facts:
    return raw.facts["model_config"]
  path = architecture.beside(raw, "config.json")
  found = {} if path is None else architecture.read_json(path)
  return found if "class_name" in found else None


def layers(raw: architecture.Raw) -> list[Layer]:
  """Returns the layers of a Sequential or functional model in the config's order.

  Raises:
    errors.UserError: If there is no config, or a layer has an unknown field.
  """
  whole = config(raw)
  if whole is None:
    raise errors.UserError(
        f"{raw.path}: there is no config of the model in it or beside it. Save the"
        " whole model, or its config beside the weights.")
  entries, found, count = whole["config"], [], {}
  if isinstance(entries, Mapping):
    entries = entries["layers"]
  for entry in entries:
    layer = _layer(entry, count)
    if whole["class_name"] == "Sequential" and found:
      layer = dataclasses.replace(layer, inputs=((found[-1].name, 0),))
    _check(raw, layer)
    found.append(layer)
  return found


def weights(
    raw: architecture.Raw, layer: Layer, way: str = "") -> dict[str, str]:
  """Returns the names of a layer's weights in the checkpoint, by their role.

  Args:
    raw: The checkpoint.
    layer: The layer.
    way: `forward` or `backward` for a Bidirectional layer, else "".
  """
  if not any(_NUMBERED.fullmatch(name) for name in raw.specs):
    _refuse_graph(raw, layer)
    return keras_cells.weights(raw.specs, layer.name, way)
  # Keras 3 stores weights by number alone, in the order in which the layer creates
  # them.
  names = ("embeddings",) if layer.kind == "Embedding" else (
      "scale",) if layer.kind in ATTENTIONS else (
      "kernel", "recurrent_kernel", "bias") if layer.kind in CELLS else (
          "kernel", "bias")
  parts = ["layers", layer.place, *(["layer"] if layer.wrapper == "TimeDistributed"
                                    else [f"{way}_layer"] if way else []),
           *(["cell"] if layer.kind in CELLS else []), "vars"]
  if not layer.fields.get("use_bias", True):
    names = names[:-1]
  return {name: "/".join([*parts, str(i)]) for i, name in enumerate(names)}


def _refuse_graph(raw: architecture.Raw, layer: Layer) -> None:
  """Raises if weights have no names of layers, which would be a misfit for each."""
  graph = next((name for name in raw.specs if _GRAPH.fullmatch(name)), None)
  if graph and not any(name.startswith(f"{layer.name}/") for name in raw.specs):
    raise errors.UserError(
        f"{raw.path}: its weights have the names of a graph of objects, such as"
        f" {graph}, and not those of the model's layers. Load it with the code that"
        " wrote it and save the whole model (model.save('model.keras') with Keras 3, or"
        " model.save('model.h5')), a Sequential or a functional one.")


def table(
    raw: architecture.Raw, layer: Layer | None, target: str
) -> list[architecture.Line]:
  """Returns the line for an Embedding layer; none without such a layer."""
  return [architecture.Line(
      target=target, source=weights(raw, layer)["embeddings"])] if layer else []


def cell_fields(raw: architecture.Raw, cells: Sequence[Layer]) -> dict[str, Any]:
  """Returns the fields of `config.Recurrent` for a stack of recurrent layers.

  Raises:
    errors.UserError: If they differ among the layers, or one is unknown.
  """
  kinds = [_cell_kind(raw, cell) for cell in cells]
  for cell, fields in zip(cells, kinds):
    if fields != kinds[0]:
      differences = ", ".join(
          f"{name} {kinds[0][name]!r} and {value!r}"
          for name, value in fields.items() if value != kinds[0][name])
      raise errors.UserError(
          f"{raw.path}: {cells[0]} and {cell} differ: {differences}; "
          "a model here has one.")
  # The forget gate's bias of 1 is an initial value in Keras, so it is already in the
  # weights and nothing is added while the model runs.
  units = tuple(cell.fields["units"] for cell in cells)
  return kinds[0] | {
      "num_layers": len(cells), "hidden_width": units[0], "forget_bias": 0.0,
      "hidden_widths": units if len(set(units)) > 1 else ()}


def shape(layers_: Sequence[Layer], name: str) -> tuple[int | None, ...]:
  """Returns the shape of an input, [length, ...], without the batch."""
  layer = next(layer for layer in layers_ if layer.name == name)
  for field in ("batch_shape", "batch_input_shape"):
    if layer.fields.get(field):
      return tuple(layer.fields[field][1:])
  return (layer.fields.get("input_length"),)


def logits(raw: architecture.Raw, layer: Layer, activation: str | None = None) -> None:
  """Checks that a Dense layer returns logits or their softmax.

  Raises:
    errors.UserError: If it does not.
  """
  found = activation or layer.fields.get("activation", "linear")
  architecture.require(f"{raw.path}: {layer}", {"activation": found},
               {"activation": ("softmax", "linear")})


def is_float32(dtype: Any) -> bool:
  """Returns whether a layer computes in float32."""
  name = dtype.get("config", {}).get("name") if isinstance(dtype, Mapping) else dtype
  return name in (None, "float32")


def _cell_kind(raw: architecture.Raw, cell: Layer) -> dict[str, Any]:
  """Returns the fields of `config.Recurrent` that all layers of a model share."""
  return {
      "cell": CELLS[cell.kind], "gate": _gate(raw, cell),
      "bias": cell.fields.get("use_bias", True),
      # A config without the field is older than the option, and meant False.
      "reset_after": cell.kind != "GRU" or cell.fields.get("reset_after", False),
      "recurrent_bias": cell.kind == "CuDNNLSTM"}


def _layer(entry: Mapping[str, Any], count: dict[str, int]) -> Layer:
  """Reads one entry; `count` holds how many of each class came before it."""
  kind, fields, wrapper = entry["class_name"], entry["config"], ""
  name = entry.get("name") or fields["name"]
  place = _place(kind, count)
  if kind in ("Bidirectional", "TimeDistributed"):
    wrapper, outer = kind, fields
    kind, fields = outer["layer"]["class_name"], outer["layer"]["config"]
    fields = {**fields, **{name: outer[name] for name in (
        "merge_mode", "batch_input_shape") if name in outer}}
    backward = outer.get("backward_layer", {}).get("config", {})
    if any(backward.get(name, fields.get(name)) != fields.get(name)
           for name in _READ.get(kind, ())):
      raise errors.UserError(f"layer {name}: backward_layer is another one than layer.")
  nodes = entry.get("inbound_nodes", [])
  # A layer that is called twice shares its weights between two places of the graph.
  if len(nodes) > 1:
    raise errors.UserError(f"layer {name} is used {len(nodes)} times.")
  return Layer(name=name, kind=kind, fields=fields, wrapper=wrapper, place=place,
               inputs=tuple(_tensors(nodes)), arguments=frozenset(_arguments(nodes)))


def _place(kind: str, count: dict[str, int]) -> str:
  """Keras 3 names groups by class and a count of its own, not by the layers' names."""
  snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
  place = f"{snake}_{count[snake]}" if snake in count else snake
  count[snake] = count.get(snake, 0) + 1
  return place


def _tensors(node: Any) -> Iterator[tuple[str, int]]:
  """(layer, output) of each tensor that a call took, in Keras 2's or 3's form."""
  if isinstance(node, Mapping):
    history = node.get("config", {}).get("keras_history") if (
        node.get("class_name") == "__keras_tensor__") else None
    if history:
      yield history[0], history[2]
      return
    for value in node.values():
      yield from _tensors(value)
  elif isinstance(node, (list, tuple)):
    # Keras 2: [layer, call, output], and keyword arguments, which may hold tensors as
    # well (`initial_state`).
    if (len(node) in (3, 4) and isinstance(node[0], str)
        and all(type(n) is int for n in node[1:3])):
      yield node[0], node[2]
      node = node[3:]
    for value in node:
      yield from _tensors(value)


# Keras 3: {"args": [...], "kwargs": {...}}. Keras 2: [[layer, call, output, {...}]].
def _arguments(node: Any) -> Iterator[str]:
  """Names of arguments that a call set to other values than tensors, False or None."""
  if isinstance(node, Mapping):
    if node.get("class_name") == "__keras_tensor__":
      return
    given = node.get("kwargs", {}) if "args" in node else node
    yield from (name for name, value in given.items()
                if value and not any(_tensors(value)))
  elif isinstance(node, (list, tuple)):
    for value in node:
      yield from _arguments(value)


def _check(raw: architecture.Raw, layer: Layer) -> None:
  # Masks, reversed time and other merges change results and leave all shapes alike, so
  # nothing later would notice them. Which axes may be concatenated depends on what is:
  # states [B, U] or outputs [B, T, U].
  where = f"{raw.path}: {layer}"
  if layer.kind not in _READ:
    raise errors.UserError(
        f"{where}: no model here has a layer of this class. Known are"
        f" {', '.join(sorted(_READ))}, and Bidirectional and TimeDistributed around"
        " some of them.")
  # `training` makes dropout act for good, and a causal mask hides what was read.
  called = sorted(layer.arguments - {"return_attention_scores"})
  if called:
    raise errors.UserError(
        f"{where} is called with {', '.join(called)}, which changes what it computes in"
        " a way that no model here has. Build the model without it, with the same"
        " weights, and save that.")
  architecture.require(where, layer.fields, {
      "merge_mode": ("concat",), "mask_zero": (False,), "go_backwards": (False,),
      "time_major": (False,), "causal": (False,), "axis": (-1, 1, 2)} | (
          {"activation": ("tanh",)} if layer.kind in CELLS else {}))
  if not is_float32(layer.fields.get("dtype")) and layer.kind != "InputLayer":
    raise errors.UserError(f"{where}: dtype is {layer.fields['dtype']!r}, and only"
                           " 'float32' is known here.")
  architecture.refuse_unknown(where, layer.fields, _known(layer.kind), raw.idle)


@functools.cache
def _known(kind: str) -> frozenset[str]:
  return frozenset(_SILENT | _READ[kind] | {"merge_mode"})


def _gate(raw: architecture.Raw, cell: Layer) -> str:
  """Returns our gate function; the meaning of Keras's name has changed."""
  name = cell.fields.get("recurrent_activation", "sigmoid")
  architecture.require(f"{raw.path}: {cell}", {"recurrent_activation": name}, {
      "recurrent_activation": ("sigmoid", "hard_sigmoid")})
  if name == "sigmoid":
    return name
  # Keras 1 and 2 compute clip(0.2 x + 0.5, 0, 1), Keras 3 clip(x / 6 + 0.5, 0, 1) under
  # the same name. Keras 3 has dropped `implementation`, which shows who wrote a config.
  return "hard_sigmoid" if "implementation" in cell.fields else "hard_sigmoid_3"
