"""textgenrnn: characters, LSTMs, an attention-weighted average, a Dense layer.

Each prediction reads the last 40 characters alone, filled on the left with 0. What
does not follow from the file's names and shapes is in `<name>_config.json` beside
`<name>_weights.hdf5`; the first published weights have none and need none. The first
version has one layer, `rnn`, with Keras 2's gates and no attention.
"""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds
from transfer_gen.maps import architecture
from transfer_gen.maps import character_table
from transfer_gen.maps import keras_cells

_WINDOW = 40
META = "<s>"  # Begins and ends a text.
_CELLS = {1: "rnn", 3: "gru", 4: "lstm"}  # By number of gates.
_ATTENTION = "attention/attention_W"
_KNOWN = ("max_length", "rnn_layers", "rnn_size", "rnn_bidirectional",
          "dim_embeddings", "max_words", "word_level", "single_text", "name",
          "num_classes")


def _recognizes(raw: architecture.Raw) -> bool:
  names = raw.specs.keys()
  return {"embedding/embeddings", "output/kernel"} <= names and bool(_layers(raw))


def _model(raw: architecture.Raw) -> config_lib.Recurrent:
  config = _config(raw)
  architecture.refuse_unknown(
      f"{raw.path}: its config", config, _KNOWN, raw.idle)
  kernels = [_weights(raw, layer)["recurrent_kernel"] for layer in _layers(raw)]
  units, columns = raw.specs[kernels[0]].shape
  vocab_size, embed_width = raw.specs["embedding/embeddings"].shape
  # No name says which cell it is; the gates lie beside each other in the columns.
  cell = _CELLS[columns // units]
  # Its shape gives the form: [G U] for Keras's own cells, [2 G U] for cuDNN's, and [2,
  # G U] for a GRU that resets after the product.
  bias = raw.specs[_weights(raw, _layers(raw)[0])["bias"]].shape
  attention = _ATTENTION in raw.specs
  # With attention came cells that run on cuDNN as well, which has no hard sigmoid; the
  # first version has the gates that were Keras 2's default.
  model = config_lib.Recurrent(
      vocab_size=vocab_size, cell=cell, num_layers=len(kernels),
      embed_width=embed_width, hidden_width=units, forget_bias=0.0,
      gate="sigmoid" if attention else "hard_sigmoid",
      reset_after=cell != "gru" or bias != (columns,),
      recurrent_bias=cell == "lstm" and bias == (2 * columns,),
      bidirectional=_both(raw), attention=attention,
      window=config.get("max_length", _WINDOW))
  if attention and raw.specs[_ATTENTION].shape[0] != sum(
      size for _, size in _averaged(model)):
    raise errors.UserError(
        f"{raw.path}: attention_W {raw.specs[_ATTENTION].shape} does not read the"
        " embedding and all layers, and nothing else is known here.")
  return model


def _lines(raw: architecture.Raw, model: config_lib.Recurrent) -> architecture.Map:
  units = model.hidden_width
  lines = [architecture.Line(target="embed/embedding", source="embedding/embeddings")]
  inputs = [("", model.embed_width)]
  for index, layer in enumerate(_layers(raw)):
    for way in ("cell", "backward")[:1 + model.bidirectional]:
      names = _weights(raw, layer, way)
      lines += keras_cells.lines(
          f"layer_{index}/{way}", names, model, units, inputs,
          cudnn=len(raw.specs[names["bias"]].shape) == 1
          and raw.specs[names["bias"]].shape[0] > raw.specs[names["kernel"]].shape[1])
    inputs = [("", units), ("_backward", units)][:1 + model.bidirectional]
  if model.attention:
    inputs = _averaged(model)
    lines += keras_cells.average("attention", _ATTENTION, inputs)
  lines += keras_cells.affine(
      "head", {"kernel": "output/kernel", "bias": "output/bias"}, inputs)
  return architecture.Map(lines=tuple(lines))


def _tokenizer(raw: architecture.Raw, model: config_lib.Recurrent, repair: bool):
  config = _config(raw)
  path = architecture.beside(raw, _named(raw, "vocab"))
  if path is None:
    return None
  if config.get("word_level"):
    raise errors.UserError(
        f"{raw.path}: word_level is set, and no tokenizer here splits as it does.")
  rows, named, notes = character_table.read(
      path, model.vocab_size, special=(META,), repair=repair, empty=(0,))
  # Keras's tokenizer counts from 1, so row 0 stands for no character: it fills windows,
  # and unknown characters become it here.
  roles = {"pad": 0, "unk": 0}
  if META in named:
    roles |= {"bos": named[META], "eos": named[META]}
  return tokenizer_kinds.Characters(rows, roles), notes


def _config(raw: architecture.Raw) -> dict[str, Any]:
  path = architecture.beside(raw, _named(raw, "config"))
  return {} if path is None else architecture.read_json(path)


def _named(raw: architecture.Raw, what: str) -> str:
  """`hackernews_weights.hdf5` has `hackernews_vocab.json` beside it."""
  return f"{raw.path.stem.removesuffix('_weights')}_{what}.json"


def _layers(raw: architecture.Raw) -> list[str]:
  """Returns the names of the recurrent layers in order."""
  groups = {name.split("/")[0] for name in raw.specs}
  # The first version has one layer and does not number it.
  if "rnn" in groups:
    return ["rnn"]
  numbers = (group.removeprefix("rnn_") for group in groups)
  return [f"rnn_{n}" for n in sorted(int(n) for n in numbers if n.isdecimal())]


def _both(raw: architecture.Raw) -> bool:
  return any("backward" in name for name in raw.specs)


def _weights(raw: architecture.Raw, layer: str, way: str = "cell") -> dict[str, str]:
  return keras_cells.weights(raw.specs, layer, {
      "cell": "forward", "backward": "backward"}[way] if _both(raw) else "")


def _averaged(model: config_lib.Recurrent) -> list[tuple[str, int]]:
  """Returns what the average reads, in the order in which Keras concatenates it."""
  ways = ("", "_backward")[:1 + model.bidirectional]
  return [("_embed", model.embed_width), *(
      (f"_layer_{i}{way}", model.hidden_width)
      for i in range(model.num_layers) for way in ways)]


MAP = architecture.Architecture(
    name="textgenrnn", what="textgenrnn's Keras models of characters",
    recognizes=_recognizes, model=_model, lines=_lines, tokenizer=_tokenizer)
