"""The Keras 3 model that computes what a recurrent model of ours does.

It gives the config and the shapes of the weights as Keras would save them. The maps
that read such files give where each weight comes from.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_seq2seq
from transfer_gen.maps import keras_stack
from transfer_gen.models import cells

_CLASSES = {"rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}
_PLACES = {"rnn": "simple_rnn", "gru": "gru", "lstm": "lstm"}
_Tensor = tuple[str, int]  # A layer, and which of its outputs.
# What trains a model and not what it computes.
_OURS = ("init", "remat", "hidden_width", "hidden_widths")

Model = config_lib.Recurrent


def contents(
    path: epath.Path, model: config_lib.Recurrent
) -> tuple[architecture.Raw, architecture.Architecture]:
  """Plans a Keras checkpoint to write: its config, and names and shapes of weights.

  Args:
    path: The file to write.
    model: The model whose results it must give.

  Returns:
    The checkpoint, without arrays, and the map that reads it.

  Raises:
    errors.UserError: If no Keras model computes the same; the message lists the fields.
  """
  build = _Builder(model)
  (build.pair if model.encoder else build.stack)()
  known = keras_seq2seq.MAP if model.encoder else keras_stack.MAP
  raw, wrong = planned(path, build.shapes, {"model_config": build.config()}, known,
                       model, _unread(model))
  if wrong:
    raise errors.UserError(
        f"No Keras model computes this one: {'; '.join(wrong)}. What is added while a"
        " model runs is not folded into its weights.")
  return raw, known


def planned(
    path: epath.Path, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, Any],
    known: architecture.Architecture, model: config_lib.Recurrent,
    unread: Collection[str],
) -> tuple[architecture.Raw, list[str]]:
  """Plans a Keras file to write, and lists what it would compute differently.

  Args:
    path: The file to write.
    shapes: Shapes of its weights by name; their dtype is float32.
    facts: Its other contents.
    known: The map that will read it.
    model: The model whose results it must give.
    unread: Fields of the model that may differ.

  Returns:
    The checkpoint, without arrays; and for each other field that the map would read
    differently, a few words.
  """
  raw = architecture.Raw(path, "Keras file", {
      name: architecture.Extent(path=path, offset=0, shape=shape, dtype=np.dtype("<f4"))
      for name, shape in shapes.items()}, facts)
  # The map that reads such files is the judge of what they can express, so that reader
  # and writer cannot disagree.
  again, wrong = known.model(raw), []
  for field in dataclasses.fields(model):
    ours, theirs = getattr(model, field.name), getattr(again, field.name)
    # Dropout trains a model and is no part of what it computes.
    idle = field.name in unread or field.name.endswith("dropout")
    if ours != theirs and not idle:
      wrong.append(f"model.{field.name} is {ours!r}, and theirs would be {theirs!r}")
  return raw, wrong


class _Builder:
  """Collects the layers and the shapes of weights of a Keras model."""

  def __init__(self, model: config_lib.Recurrent):
    self.model = model
    self.layers: list[dict[str, Any]] = []
    self.shapes: dict[str, tuple[int, ...]] = {}
    self.count: dict[str, int] = {}
    self.outputs: dict[_Tensor, list[int | None]] = {}

  def config(self) -> dict[str, Any]:
    """Returns the config in the form of Keras's `model.to_json()`."""
    fields = {"name": "exported", "trainable": True, "layers": self.layers}
    kind, module = "Sequential", "keras"
    if self.model.encoder:
      kind, module = "Functional", "keras.src.models.functional"
      ends = [[name, 0, 0] for name in ("sources", "inputs")]
      fields |= {"input_layers": ends, "output_layers": ["head", 0, 0]}
    return {"module": module, "class_name": kind, "config": fields}

  def stack(self) -> None:
    """Adds the layers of a language model."""
    model = self.model
    widths = model.widths
    width = self.tokens("inputs", model.vocab_size, ())
    for i, units in enumerate(widths):
      self.cell(f"layer_{i}", width, units, (), both=model.bidirectional, more={
          "return_sequences": i + 1 < len(widths) or not model.window})
      width = units * (1 + model.bidirectional)
    if model.dense_width:
      self.dense("dense", width, model.dense_width, model.dense_activation, ())
    self.dense("head", model.dense_width or width, model.vocab_size, "linear", ())

  def pair(self) -> None:
    """Adds the layers of an encoder and a decoder."""
    model, both, widths = self.model, self.model.bidirectional, self.model.widths
    count, ways = cells.KINDS[model.cell].states, 1 + self.model.bidirectional
    width = self.tokens("sources", model.encoder_tokens, ())
    read, starts = ("sources_embed" if model.embed_width else "sources", 0), []
    for i, units in enumerate(widths):
      name = f"encoder_{i}"
      # Each way has a share, since the decoder begins with both, concatenated.
      self.cell(name, width, units // ways, (read,), both=both, more={
          "return_sequences": i + 1 < len(widths), "return_state": True})
      # Output 0 is the sequence; the states follow.
      starts.append([(name, 1 + state) for state in range(count)])
      if both:
        starts[-1] = [self.joined(i, state, count) for state in range(count)]
      read, width = (name, 0), units
    width = self.tokens("inputs", model.vocab_size, ())
    read = ("inputs_embed" if model.embed_width else "inputs", 0)
    for i, (units, start) in enumerate(zip(widths, starts)):
      name = f"decoder_{i}"
      self.cell(name, width, units, (read,), state=start,
                more={"return_sequences": True})
      read, width = (name, 0), units
    self.dense("head", width, model.vocab_size, "linear", (read,))

  def joined(self, layer: int, state: int, count: int) -> _Tensor:
    """Adds the concatenation of a state of both directions, of `count` each."""
    ends = [(f"encoder_{layer}", 1 + state), (f"encoder_{layer}", 1 + count + state)]
    name = f"state_{layer}_{state}"
    self.add("Concatenate", name, {"axis": -1}, [ends])
    self.outputs[name, 0] = [None, self.model.widths[layer]]
    return name, 0

  def tokens(self, name: str, size: int, inputs: Sequence[_Tensor]) -> int:
    """Adds an input and its embedding, if any; returns the number of features."""
    width = self.model.embed_width
    shape = [self.model.window or None, *([] if width else [size])]
    dtype = "int32" if width else "float32"
    fields = {"batch_shape": [None, *shape], "dtype": dtype}
    self.add("InputLayer", name, fields, inputs)
    self.outputs[name, 0] = [None, *shape]
    if not width:
      return size
    self.outputs[f"{name}_embed", 0] = [None, *shape, width]
    place = self.add("Embedding", f"{name}_embed",
                     {"input_dim": size, "output_dim": width}, ((name, 0),))
    self.shapes[f"{place}/vars/0"] = (size, width)
    return width

  def cell(
      self, name: str, width: int, units: int, inputs: Sequence[_Tensor],
      more: Mapping[str, Any], both: bool = False, state: Sequence[_Tensor] = (),
  ) -> None:
    """Adds a recurrent layer."""
    model = self.model
    kind, gates = _CLASSES[model.cell], cells.KINDS[model.cell].gates
    fields = {"name": name, "units": units, "use_bias": model.bias, **more}
    if model.cell != "rnn":
      # Keras 3 has only its own hard_sigmoid, so that of Keras 2 shows as a difference
      # when the file is read back.
      hard = model.gate == "hard_sigmoid_3"
      fields["recurrent_activation"] = "hard_sigmoid" if hard else "sigmoid"
    if model.cell == "gru":
      fields["reset_after"] = model.reset_after
    ways = ("forward_layer/", "backward_layer/") if both else ("",)
    self.outputs[name, 0] = [None, None, units * (1 + both)]
    # A Bidirectional layer returns the states of the forward way and then those of the
    # backward way.
    for i in range(2 * cells.KINDS[model.cell].states):
      self.outputs[name, 1 + i] = [None, units]
    if both:
      inner = {"module": "keras.layers", "class_name": kind,
               "config": fields | {"name": f"{name}_way"}}
      kind, fields = "Bidirectional", {"layer": inner, "merge_mode": "concat"}
    place = self.add(kind, name, fields, inputs, state)
    bias = (gates * units,)
    # The second row is the bias of the product with the state.
    if model.cell == "gru" and model.reset_after:
      bias = (2, *bias)
    for way in ways:
      shapes = ((width, gates * units), (units, gates * units), bias)
      for i, shape in enumerate(shapes[:2 + model.bias]):
        self.shapes[f"{place}/{way}cell/vars/{i}"] = shape

  def dense(
      self, name: str, width: int, units: int, activation: str,
      inputs: Sequence[_Tensor]) -> None:
    """Adds a Dense layer."""
    place = self.add("Dense", name, {
        "units": units, "activation": activation, "use_bias": self.model.bias}, inputs)
    shapes = ((width, units), (units,))[:1 + self.model.bias]
    self.shapes |= {f"{place}/vars/{i}": shape for i, shape in enumerate(shapes)}

  def add(
      self, kind: str, name: str, fields: Mapping[str, Any], inputs: Sequence[Any],
      state: Sequence[_Tensor] = ()) -> str:
    """Adds a layer; returns where its weights lie."""
    entry: dict[str, Any] = {"module": "keras.layers", "class_name": kind, "name": name,
             "config": {"name": name, **fields}}
    if self.model.encoder:
      kwargs = {"initial_state": self.named(state)} if state else {}
      entry["inbound_nodes"] = [
          {"args": self.named(inputs), "kwargs": kwargs}] if inputs else []
    self.layers.append(entry)
    known = {v: k for k, v in _CLASSES.items()}.get(kind, "")
    place = _PLACES.get(known, kind.lower())
    # Keras gives the first group of a class no number.
    number = self.count.get(place, 0)
    self.count[place] = number + 1
    return f"layers/{place}_{number}" if number else f"layers/{place}"

  def named(self, tensors: Sequence[Any]) -> list[Any]:
    """Outputs of layers as a Keras config has them; several in one argument nest."""
    return [{"class_name": "__keras_tensor__", "config": {
        "shape": self.outputs[t], "dtype": "float32", "keras_history": [t[0], 0, t[1]]}}
            if isinstance(t[0], str) else self.named(t) for t in tensors]


def _unread(model: config_lib.Recurrent) -> set[str]:
  """Returns fields that do not matter to this model, or that follow from shapes."""
  found = set(_OURS)
  if not model.dense_width:
    found.add("dense_activation")
  if model.cell != "gru":
    found.add("reset_after")
  if model.cell != "lstm":
    found.add("forget_bias")
  if model.cell == "rnn":
    found.add("gate")
  if not model.encoder_vocab_size:
    found.add("encoder_vocab_size")
  if not model.window:
    found.add("pad_token")
  # How windows, sources and answers begin and end is up to a Keras model's caller.
  return found | {"encoder_length", "encoder_marks", "start_token", "pad_token"}
