"""Keras: an encoder of recurrent layers whose states begin a decoder's, and Dense.

The character sequence-to-sequence model of the Keras examples: one-hot input, or an
Embedding each; a Bidirectional encoder's states concatenated. That example fills
sources on the right with the space character up to the longest of its data, which
stands in no file, nor do the characters: both are said with `Source.tokenizer`, see
`sources.given`. Nothing marks a source's end, and answers begin with bos.

The decoder's outputs may be concatenated with what an Attention or AdditiveAttention
made of them, see `keras_attention`, and one or two Dense layers may lie before the
last one. `keras_pair` says how layers of both sides must lie.
"""

from collections.abc import Iterator, Sequence

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_attention
from transfer_gen.maps import keras_cells
from transfer_gen.maps import keras_config
from transfer_gen.maps import keras_pair


def _recognizes(raw: architecture.Raw) -> bool:
  config = keras_config.config(raw)
  if config is None or config["class_name"] == "Sequential":
    return False
  kinds = [layer["class_name"] for layer in config["config"]["layers"]]
  # Sources and answers; a functional model of one input is a stack.
  return kinds.count("InputLayer") == 2


def _model(raw: architecture.Raw) -> config_lib.Recurrent:
  pair = keras_pair.find(raw)
  keras_config.logits(raw, pair.dense)
  fields = keras_config.cell_fields(raw, pair.decoder)
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
  return config_lib.Recurrent(
      vocab_size=pair.size, embed_width=pair.embed_width, encoder=True,
      encoder_vocab_size=pair.encoder_size, bidirectional=pair.both,
      encoder_marks="none", **fields)


def _lines(raw: architecture.Raw, model: config_lib.Recurrent) -> architecture.Map:
  pair = keras_pair.find(raw)
  lines = [
      *keras_config.table(raw, pair.encoder_embedding, "encoder/embed/embedding"),
      *keras_config.table(raw, pair.embedding, "embed/embedding"),
      *_cells(raw, model, pair.encoder, pair.both, "encoder/layer_{}",
              model.embed_width or model.encoder_vocab_size),
      *_cells(raw, model, pair.decoder, False, "layer_{}",
              model.embed_width or model.vocab_size, turned=pair.both)]
  if pair.attention:
    lines += keras_attention.lines(raw, pair.attention, pair.both)
  inputs, turned = [(end, model.widths[-1]) for end in pair.reads], pair.both
  for target, dense in (("attention/combine", pair.combine), ("dense", pair.hidden),
                        ("head", pair.dense)):
    if dense:
      lines += keras_cells.affine(
          target, keras_config.weights(raw, dense), inputs, turned=turned)
      # What a Dense layer returns is in no order of directions.
      inputs, turned = [("", dense.fields["units"])], False
  return architecture.Map(lines=tuple(lines))


def _cells(
    raw: architecture.Raw, model: config_lib.Recurrent,
    stack: Sequence[keras_config.Layer], both: bool, target: str, size: int,
    turned: bool = False,
) -> Iterator[architecture.Line]:
  """Yields lines for the recurrent layers of a side.

  Args:
    raw: The checkpoint.
    model: The model of ours.
    stack: The layers, the lowest first.
    both: Whether they read both ways.
    target: Name of a layer of ours, with its number left out.
    size: Number of features that the lowest one reads.
    turned: Whether their units are those of two directions, see `keras_cells.lines`.
  """
  inputs = [("", size)]
  for number, layer in enumerate(stack):
    units = layer.fields["units"]
    for ours, way in keras_cells.ways(both).items():
      yield from keras_cells.lines(
          f"{target.format(number)}/{ours}", keras_config.weights(raw, layer, way),
          model, units, inputs, cudnn=layer.kind.startswith("CuDNN"), turned=turned,
          reads_turned=turned and number > 0)
    inputs = [("", units), ("_backward", units)][:1 + both]


MAP = architecture.Architecture(
    name="keras_seq2seq", what="Keras encoder and decoder of recurrent layers",
    recognizes=_recognizes, model=_model, lines=_lines)
