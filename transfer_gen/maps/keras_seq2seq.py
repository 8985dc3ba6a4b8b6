"""Keras: an encoder LSTM (or GRU) whose state begins a decoder's, and Dense.

The character sequence-to-sequence model of the Keras examples: one-hot input, or an
Embedding each; a Bidirectional encoder's states concatenated. That example fills
sources on the right with the space character up to the longest of its data, which
stands in no file, nor do the characters: both are said with `Source.tokenizer`, see
`sources.given`. Nothing marks a source's end, and answers begin with bos.

The decoder's outputs may be concatenated with what an Attention or AdditiveAttention
made of them, see `keras_attention`, and one or two Dense layers may lie before the
last one.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_attention
from transfer_gen.maps import keras_cells
from transfer_gen.maps import keras_config

_Layers = Mapping[str, keras_config.Layer]  # By name.
_Tensor = tuple[str, int]  # A layer, and which of its outputs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pair:
  """A model's layers by their role; an embedding is None if tokens are one-hot.

  Attributes:
    encoder: The recurrent layer that reads sources.
    decoder: The one that begins with its states.
    dense: The Dense layer that gives the output.
    combine: The one that makes one hidden state of the decoder's and the context, if
      any: of as many units, with tanh.
    hidden: Another one before the output, if any.
    attention: What gives the context, if there is one.
    reads: What lies behind the decoder, in the order of its concatenation: "" for the
      decoder's outputs, "_context" for the context.
    encoder_embedding: The embedding of sources.
    embedding: That of answers.
    encoder_size: Number of tokens of sources.
    size: Number of tokens of answers.
  """
  encoder: keras_config.Layer
  decoder: keras_config.Layer
  dense: keras_config.Layer
  combine: keras_config.Layer | None
  hidden: keras_config.Layer | None
  attention: keras_attention.Attention | None
  reads: tuple[str, ...]
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
               {"units": (pair.size,)})
  for dense in (pair.dense, pair.combine, pair.hidden):
    architecture.require(f"{raw.path}: {dense}", dense.fields if dense else {},
                 {"use_bias": (fields["bias"],)})
  if pair.attention:
    fields |= keras_attention.fields(pair.attention) | {
        "attention_output": "hidden" if pair.combine else "context"}
  if pair.hidden:
    activation = pair.hidden.fields.get("activation", "linear")
    architecture.require(f"{raw.path}: {pair.hidden}", {"activation": activation},
                 {"activation": keras_config.HIDDEN})
    fields |= {"dense_width": pair.hidden.fields["units"],
               "dense_activation": activation}
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
  if pair.attention:
    lines += keras_attention.lines(raw, pair.attention, pair.both)
  inputs, turned = [(end, model.hidden_width) for end in pair.reads], pair.both
  for target, dense in (("attention/combine", pair.combine), ("dense", pair.hidden),
                        ("head", pair.dense)):
    if dense:
      lines += keras_cells.affine(
          target, keras_config.weights(raw, dense), inputs, turned=turned)
      # What a Dense layer returns is in no order of directions.
      inputs, turned = [("", dense.fields["units"])], False
  return architecture.Map(lines=tuple(lines))


def _pair(raw: architecture.Raw) -> _Pair:
  """Finds a model's layers by their role, from the output back.

  Raises:
    errors.UserError: If the graph has another form.
  """
  layers = {layer.name: layer for layer in keras_config.layers(raw)}
  dense, chain, tensor = _last(raw, layers)
  merged, concatenated = [tensor], layers[tensor[0]].kind == "Concatenate"
  if concatenated:
    _check_axis(raw, layers[tensor[0]], 2)
    merged = [_through(layers, one) for one in layers[tensor[0]].inputs]
  attending = [layers[name] for name, output in merged
               if layers[name].kind in keras_config.ATTENTIONS and not output]
  reads = tuple("_context" if layers[name] in attending else "" for name, _ in merged)
  outputs = merged[reads.index("")] if "" in reads else tensor
  decoder = layers[outputs[0]]
  if (decoder.kind not in keras_config.CELLS or decoder.wrapper or outputs[1]
      or sorted(reads) != ["", "_context"][:1 + concatenated]):
    raise errors.UserError(
        f"{raw.path}: {(chain or [dense])[0]} reads"
        f" {', '.join(str(layers[name]) for name, _ in merged)}. Known here are the"
        " outputs of one recurrent layer that reads forward, alone or concatenated with"
        " those of one attention.")
  encoder = _encoder(raw, layers, decoder, decoder.inputs[1:])
  attention = keras_attention.find(
      raw, layers, functools.partial(_through, layers), attending[0], outputs,
      encoder.name) if attending else None
  combine, hidden = _dense(raw, chain, decoder, attending)
  known = {encoder.name, decoder.name, dense.name, *(layer.name for layer in chain),
           *(attention.names if attention else ())}
  # What the search from the output has not met would be lost without an error.
  left = [layer for layer in layers.values() if layer.name not in known and layer.kind
          not in (*keras_config.IDLE, "InputLayer", "Embedding", "Concatenate")]
  if left:
    raise errors.UserError(f"{raw.path}: {left[0]} is not known in a pair of an encoder"
                           " and a decoder here.")
  embedding, size = _tokens(raw, layers, decoder.inputs[0])
  encoder_embedding, encoder_size = _tokens(raw, layers, encoder.inputs[0])
  return _Pair(encoder=encoder, decoder=decoder, dense=dense, size=size,
               combine=combine, hidden=hidden, attention=attention, reads=reads,
               encoder_size=encoder_size, embedding=embedding,
               encoder_embedding=encoder_embedding)


def _through(layers: _Layers, tensor: _Tensor) -> _Tensor:
  """Returns the tensor before layers that act only in training."""
  while layers[tensor[0]].kind in keras_config.IDLE:
    [tensor] = layers[tensor[0]].inputs
  return tensor


def _tokens(
    raw: architecture.Raw, layers: _Layers, tensor: _Tensor
) -> tuple[keras_config.Layer | None, Any]:
  """Returns the embedding between a tensor and its input, if any, and its rows."""
  layer, embedding = layers[_through(layers, tensor)[0]], None
  if layer.kind == "Embedding":
    layer, embedding = layers[_through(layers, layer.inputs[0])[0]], layer
  if layer.kind != "InputLayer":
    raise errors.UserError(f"{raw.path}: {layer} is not known before a cell here.")
  size = keras_config.shape([layer], layer.name)[-1]
  return embedding, embedding.fields["input_dim"] if embedding else size


def _last(
    raw: architecture.Raw, layers: _Layers
) -> tuple[keras_config.Layer, list[keras_config.Layer], _Tensor]:
  """Returns the last Dense layer, those right before it, and what the first reads."""
  read = {name for layer in layers.values() for name, _ in layer.inputs}
  ends = [layer for layer in layers.values() if layer.name not in read]
  if len(ends) != 1 or ends[0].kind != "Dense":
    raise errors.UserError(
        f"{raw.path}: the model returns {', '.join(map(str, ends)) or 'nothing'}. Known"
        " here is one Dense layer that gives the output.")
  chain, tensor = ends, _through(layers, ends[0].inputs[0])
  while layers[tensor[0]].kind == "Dense":
    before = layers[tensor[0]]
    chain, tensor = [before, *chain], _through(layers, before.inputs[0])
  return chain[-1], chain[:-1], tensor


def _dense(raw, chain, decoder, attending):
  """Returns the Dense layers before the last one by their role, each may be None."""
  combine = None
  if attending and chain and chain[0].fields.get("activation") == "tanh" and (
      chain[0].fields["units"] == decoder.fields["units"]):
    combine, *chain = chain
  if len(chain) > 1:
    raise errors.UserError(
        f"{raw.path}: {chain[-1]} is one Dense layer too many. Known here before the"
        " output is one, and behind an attention another one, which comes first, with"
        f" tanh and as many units as {decoder.name} has.")
  return combine, chain[0] if chain else None


def _check_axis(raw, layer, features) -> None:
  """Refuses another axis than the last one, the number of which is given."""
  # Along time, states and contexts would follow each other in the same number of units.
  architecture.require(
      f"{raw.path}: {layer}", {"axis": layer.fields.get("axis", -1)},
      {"axis": (-1, features)})


def _encoder(raw, layers, decoder, states) -> keras_config.Layer:
  """Returns the layer whose final states are the decoder's initial ones."""
  concatenated = bool(states) and layers[states[0][0]].kind == "Concatenate"
  if concatenated:
    for name, _ in states:
      _check_axis(raw, layers[name], 1)
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
