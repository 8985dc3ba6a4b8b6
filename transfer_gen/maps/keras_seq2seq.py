"""Keras: an encoder LSTM (or GRU) whose state begins a decoder's, and Dense.

The character sequence-to-sequence model of the Keras examples: one-hot input, or an
Embedding each; a Bidirectional encoder's states concatenated. That example fills
sources on the right with the space character up to the longest of its data, which
stands in no file, nor do the characters: both are said with `Source.tokenizer`, see
`sources.given`. Nothing marks a source's end, and answers begin with bos.
"""

import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_cells
from transfer_gen.maps import keras_config

_IDLE = ("Dropout", "SpatialDropout1D")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pair:
  """A model's layers by their role; an embedding is None if tokens are one-hot."""
  encoder: keras_config.Layer
  decoder: keras_config.Layer
  dense: keras_config.Layer
  encoder_embedding: keras_config.Layer | None
  embedding: keras_config.Layer | None
  encoder_size: int
  size: int

  @property
  def both(self) -> bool:
    """Whether the encoder reads both ways."""
    return self.encoder.wrapper == "Bidirectional"


def _recognizes(raw: architecture.Raw) -> bool:
  config = keras_config.config(raw)
  if config is None or config["class_name"] == "Sequential":
    return False
  kinds = [layer["class_name"] for layer in config["config"]["layers"]]
  # Sources and answers; a functional model of one input is a stack.
  return kinds.count("InputLayer") == 2


def _model(raw: architecture.Raw) -> config_lib.Recurrent:
  pair = _pair(raw)
  keras_config.logits(raw, pair.dense)
  fields = keras_config.cell_fields(raw, [pair.decoder])
  theirs = keras_config.cell_fields(raw, [pair.encoder])
  # Both ways' states are concatenated, so the decoder is twice as wide as each of them.
  units = theirs.pop("hidden_width") * (1 + pair.both)
  if theirs | {"hidden_width": units} != fields:
    raise errors.UserError(
        f"{raw.path}: {pair.encoder} and {pair.decoder} are of two kinds or widths.")
  # Our config has one field for all biases, and one vocabulary of answers.
  architecture.require(f"{raw.path}: {pair.dense}", pair.dense.fields,
               {"units": (pair.size,), "use_bias": (fields["bias"],)})
  widths = {embedding.fields["output_dim"] if embedding else 0
            for embedding in (pair.encoder_embedding, pair.embedding)}
  if len(widths) > 1:
    raise errors.UserError(
        f"{raw.path}: embeddings of {widths} features (output_dim); a model here has"
        " one width.")
  return config_lib.Recurrent(
      vocab_size=pair.size, embed_width=widths.pop(), encoder=True,
      encoder_vocab_size=pair.encoder_size, bidirectional=pair.both,
      encoder_marks="none", **fields)


def _lines(raw: architecture.Raw, model: config_lib.Recurrent) -> architecture.Map:
  pair = _pair(raw)
  lines = [
      *keras_config.table(raw, pair.encoder_embedding, "encoder/embed/embedding"),
      *keras_config.table(raw, pair.embedding, "embed/embedding")]
  units = model.hidden_width // (1 + pair.both)
  for target, way in keras_cells.ways(pair.both).items():
    lines += keras_cells.lines(
        f"encoder/layer_0/{target}", keras_config.weights(raw, pair.encoder, way),
        model, units, [("", model.embed_width or model.encoder_vocab_size)],
        cudnn=pair.encoder.kind.startswith("CuDNN"))
  lines += keras_cells.lines(
      "layer_0/cell", keras_config.weights(raw, pair.decoder), model,
      model.hidden_width, [("", model.embed_width or model.vocab_size)],
      cudnn=pair.decoder.kind.startswith("CuDNN"), turned=pair.both)
  lines += keras_cells.affine(
      "head", keras_config.weights(raw, pair.dense), [("", model.hidden_width)],
      turned=pair.both)
  return architecture.Map(lines=tuple(lines))


def _pair(raw: architecture.Raw) -> _Pair:
  """Finds a model's layers by their role, from the output back.

  Raises:
    errors.UserError: If the graph has another form.
  """
  layers = {layer.name: layer for layer in keras_config.layers(raw)}

  def through(tensor):
    """Returns the tensor before layers that act only in training."""
    name, output = tensor
    while layers[name].kind in _IDLE:
      name, output = layers[name].inputs[0]
    return name, output

  def tokens(tensor: tuple[str, int]) -> tuple[keras_config.Layer | None, Any]:
    """Returns the embedding between a tensor and its input, if any, and its rows."""
    layer, embedding = layers[through(tensor)[0]], None
    if layer.kind == "Embedding":
      layer, embedding = layers[through(layer.inputs[0])[0]], layer
    if layer.kind != "InputLayer":
      raise errors.UserError(f"{raw.path}: {layer} is not known before a cell here.")
    size = keras_config.shape([layer], layer.name)[-1]
    rows: Any = embedding.fields["input_dim"] if embedding else size
    return embedding, rows

  [dense] = [layer for layer in layers.values() if layer.kind == "Dense"] or [None]
  decoder = dense and layers[through(dense.inputs[0])[0]]
  if dense is None or decoder is None or decoder.wrapper or (
      decoder.kind not in keras_config.CELLS):
    raise errors.UserError(f"{raw.path}: no Dense layer reads one recurrent layer.")
  first, *states = decoder.inputs
  encoder = _encoder(raw, layers, decoder, states)
  known = {encoder.name, decoder.name, dense.name}
  # What the search from the output has not met would be lost without an error.
  left = [layer for layer in layers.values() if layer.name not in known and layer.kind
          not in (*_IDLE, "InputLayer", "Embedding", "Concatenate")]
  if left:
    raise errors.UserError(f"{raw.path}: {left[0]} is not known in a pair of an encoder"
                           " and a decoder here.")
  embedding, size = tokens(first)
  encoder_embedding, encoder_size = tokens(encoder.inputs[0])
  return _Pair(encoder=encoder, decoder=decoder, dense=dense, size=size,
               encoder_size=encoder_size, embedding=embedding,
               encoder_embedding=encoder_embedding)


def _encoder(raw, layers, decoder, states) -> keras_config.Layer:
  """Returns the layer whose final states are the decoder's initial ones."""
  concatenated = bool(states) and layers[states[0][0]].kind == "Concatenate"
  taken = [layers[name].inputs if concatenated else ((name, output),)
           for name, output in states]
  sources = {name for tensors in taken for name, _ in tensors}
  # There should be one source; with several, `wanted` below refuses them.
  source = min(sources, default="")
  encoder, count = layers.get(source), len(taken)
  wanted = [((source, 1 + i), (source, 1 + count + i)) if concatenated
            else ((source, 1 + i),) for i in range(count)]
  # The order of states matters and no shape shows it: h and c of an LSTM are alike, and
  # so are the two ways.
  if (encoder is None or encoder.kind not in keras_config.CELLS
      or concatenated != (encoder.wrapper == "Bidirectional")
      or [tuple(tensors) for tensors in taken] != wanted
      or count != (2 if keras_config.CELLS[decoder.kind] == "lstm" else 1)):
    raise errors.UserError(
        f"{raw.path}: {decoder} does not begin with the states of one recurrent layer,"
        " in their order, and nothing else is known here.")
  return encoder


MAP = architecture.Architecture(
    name="keras_seq2seq", what="Keras encoder and decoder LSTMs or GRUs over pairs",
    recognizes=_recognizes, model=_model, lines=_lines)
