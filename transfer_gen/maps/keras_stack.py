"""Keras: stacks of Embedding or one-hot tokens, recurrent layers and Dense.

SimpleRNN, GRU, LSTM and their cuDNN forms, one kind in a stack; Bidirectional around
all of them; TimeDistributed around Dense, one before the output. A model that reads
texts of one length and gives one prediction has a window of that length.
"""

from collections.abc import Mapping
import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_cells
from transfer_gen.maps import keras_config

_IDLE = (*keras_config.IDLE, "InputLayer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stack:
  """A stack's layers by their role.

  Attributes:
    shape: Shape of the input, without the batch.
    embedding: The embedding. If None, tokens are one-hot.
    cells: Recurrent layers in order.
    dense: One or two Dense layers; the last one is the output.
    activations: Activation of each Dense layer, which may be a layer of its own.
  """
  shape: tuple[int | None, ...]
  embedding: keras_config.Layer | None
  cells: tuple[keras_config.Layer, ...]
  dense: tuple[keras_config.Layer, ...]
  activations: tuple[str, ...]


def _recognizes(raw: architecture.Raw) -> bool:
  return keras_config.config(raw) is not None


def _model(raw: architecture.Raw) -> config_lib.Recurrent:
  stack = _stack(raw)
  # Each of these is read by another cell, which needs a sequence. Keras's default is to
  # give the last output alone.
  for cell in stack.cells[:-1]:
    architecture.require(
        f"{raw.path}: {cell}", {"return_sequences": False} | dict(cell.fields),
        {"return_sequences": (True,)})
  last, head = stack.cells[-1], stack.dense[-1]
  keras_config.logits(raw, head, stack.activations[-1])
  both = {cell.wrapper for cell in stack.cells} == {"Bidirectional"}
  if not both and any(cell.wrapper for cell in stack.cells):
    raise errors.UserError(
        f"{raw.path}: some recurrent layers are Bidirectional and some are not.")
  # A backward cell reads what comes later, so a model with one may predict only what
  # follows its whole input.
  one = not last.fields.get("return_sequences", False)
  if both and not (one and stack.shape[0]):
    raise errors.UserError(
        f"{raw.path}: {last}: a model that reads both ways is known here with one"
        f" prediction (return_sequences is {not one}) for texts of one length (its"
        f" input is {stack.shape}).")
  vocab_size = head.fields["units"]
  embed = stack.embedding.fields if stack.embedding else {
      "input_dim": stack.shape[-1], "output_dim": 0}
  # A language model feeds its predictions back, so both ends need the same tokens.
  if embed["input_dim"] != vocab_size:
    raise errors.UserError(
        f"{raw.path}: it reads {embed['input_dim']} tokens (input_dim) and predicts"
        f" {vocab_size} ({head}: units); a model here has one vocabulary.")
  hidden = stack.dense[:-1]
  biases = {bool(d.fields.get("use_bias", True)) for d in (*stack.cells, *stack.dense)}
  if len(biases) > 1:
    raise errors.UserError(f"{raw.path}: use_bias differs among its layers.")
  if hidden:
    architecture.require(
        f"{raw.path}: {hidden[0]}", {"activation": stack.activations[0]},
        {"activation": keras_config.HIDDEN})
  return config_lib.Recurrent(
      vocab_size=vocab_size, embed_width=embed["output_dim"],
      dense_width=hidden[0].fields["units"] if hidden else 0,
      dense_activation=stack.activations[0] if hidden else "relu",
      bidirectional=both, window=(stack.shape[0] or 0) if one else 0,
      **keras_config.cell_fields(raw, stack.cells))


def _lines(raw: architecture.Raw, model: config_lib.Recurrent) -> architecture.Map:
  stack, inputs = _stack(raw), [("", model.embed_width or model.vocab_size)]
  lines = keras_config.table(raw, stack.embedding, "embed/embedding")
  ways = keras_cells.ways(model.bidirectional)
  for index, cell in enumerate(stack.cells):
    units = cell.fields["units"]
    for target, way in ways.items():
      lines += keras_cells.lines(
          f"layer_{index}/{target}", keras_config.weights(raw, cell, way), model, units,
          inputs, cudnn=cell.kind.startswith("CuDNN"))
    inputs = [("", units), ("_backward", units)][:len(ways)]
  # From the right: the last Dense layer is always the head.
  for target, dense in zip(("dense", "head")[-len(stack.dense):], stack.dense):
    lines += keras_cells.affine(target, keras_config.weights(raw, dense), inputs)
    inputs = [("", dense.fields["units"])]
  return architecture.Map(lines=tuple(lines))


def _stack(raw: architecture.Raw) -> _Stack:
  """Returns a model's layers by their role, and checks that they form a stack.

  Raises:
    errors.UserError: If there are other layers, or they have another order.
  """
  layers = keras_config.layers(raw)
  for before, layer in zip(layers, layers[1:]):
    # A residual or a second branch would have the same weights and compute something
    # else.
    if layer.inputs != ((before.name, 0),):
      raise errors.UserError(
          f"{raw.path}: {layer} reads {[name for name, _ in layer.inputs]} and not"
          f" {before.name} alone: no stack.")
  cells, dense, activations, embedding, stage = [], [], [], None, 0
  for layer in layers:
    if layer.kind in _IDLE:
      continue
    now = _STAGES.get(layer.kind, 3 if layer.kind in keras_config.CELLS else None)
    # Layers come in the order of their stages; a second embedding would have to read
    # vectors.
    if now is None or now < stage or (now == stage == 1):
      raise errors.UserError(
          f"{raw.path}: {layer} is not known here after what comes before it. A stack"
          " is Embedding or one-hot tokens, SimpleRNNs, GRUs or LSTMs, Dense.")
    stage = now
    if layer.kind == "Embedding":
      embedding = layer
    elif layer.kind == "Dense":
      dense.append(layer)
      activations.append(layer.fields.get("activation", "linear"))
    elif layer.kind == "Activation":
      activations[-1] = _composed(raw, layer, activations[-1])
    else:
      cells.append(layer)
  if not cells or not 1 <= len(dense) <= 2:
    raise errors.UserError(
        f"{raw.path}: {len(cells)} recurrent and {len(dense)} Dense layers; a stack"
        " here has one or more, and one or two.")
  return _Stack(
      shape=keras_config.shape(layers, layers[0].name), embedding=embedding,
      cells=tuple(cells), dense=tuple(dense), activations=tuple(activations))


_STAGES: Mapping[str, int] = {"Embedding": 1, "Dense": 4, "Activation": 4}


def _composed(
    raw: architecture.Raw, layer: keras_config.Layer, before: str) -> str:
  """Returns the activation of a Dense layer that an Activation layer follows."""
  if before != "linear":
    raise errors.UserError(f"{raw.path}: {layer} stands behind {before}, not known.")
  return layer.fields["activation"]


MAP = architecture.Architecture(
    name="keras", what="Keras stacks of Embedding, SimpleRNN, GRU or LSTM, and Dense",
    recognizes=_recognizes, model=_model, lines=_lines)
