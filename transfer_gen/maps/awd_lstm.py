"""fastai's language models: AWD-LSTM (Merity et al., 2018), as `learn.save` writes it.

A state dict, bare or as `model` beside the optimizer's `opt`, in the names of fastai 1
and 2. The output is the embedding table, with a bias of its own, unless the two tables
differ. Of each recurrent weight fastai keeps `weight_hh_l0_raw`, which learns, and
makes `module.weight_hh_l0` of it: with dropout in training, as it is in evaluation. A
file may hold both; the raw one is read, as fastai itself does.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.data import token_lists
from transfer_gen.maps import architecture
from transfer_gen.maps import layouts

Model = config_lib.Recurrent
_RNN = re.compile(r"(?:.*[./])?rnns\.(\d+)\.(.+)")
_CLASSIFIER = re.compile(r"(?:.*/)?(0\.module|1\.layers)\..*")
_TABLE, _COPY = "0.encoder.weight", "0.encoder_dp.emb.weight"
_OUTPUT, _BIAS = "1.decoder.weight", "1.decoder.bias"
_LAYER = "0.rnns.{}."
_RAW, _DROPPED = "weight_hh_l0_raw", "module.weight_hh_l0"
_INPUT = "module.weight_ih_l0"
_BIASES = {"bias": "module.bias_ih_l0", "recurrent_bias": "module.bias_hh_l0"}
_SUFFIXES = (".pkl", ".pickle", ".json", ".txt")


def model_of(vocab_size: int, widths: Sequence[int], embed_width: int, tied: bool
             ) -> Model:
  """Returns the model that a checkpoint of some sizes computes.

  Args:
    vocab_size: V.
    widths: Number of units of each layer.
    embed_width: D.
    tied: Whether the output is the embedding table.
  """
  return config_lib.Recurrent(
      vocab_size=vocab_size, cell="lstm", num_layers=len(widths),
      embed_width=embed_width, hidden_width=widths[0],
      hidden_widths=tuple(widths) if len(set(widths)) > 1 else (),
      recurrent_bias=True, forget_bias=0.0, tied=tied)


def map_of(model: Model, prefix: str = "") -> architecture.Map:
  """Returns where the leaves of a model lie.

  Args:
    model: What `model_of` returned.
    prefix: What precedes all names.
  """
  turn = layouts.Transpose(perm=(1, 0))
  lines = [architecture.Line(target="embed/embedding", source=prefix + _TABLE),
           architecture.Line(target="head/bias", source=prefix + _BIAS)]
  if not model.tied:
    lines.append(architecture.Line(
        target="head/kernel", source=prefix + _OUTPUT, layout=turn))
  for layer, units in enumerate(model.widths):
    theirs = prefix + _LAYER.format(layer)
    # PyTorch's gates are i, f, g, o, one under the other: the order of ours.
    gates = lambda dim, units=units: layouts.Unflatten(dim=dim, shape=(4, units))
    lines += [architecture.Line(
        target=f"layer_{layer}/cell/{ours}", source=theirs + name,
        layout=layouts.Chain(parts=(turn, gates(1))))
        for ours, name in (("input_kernel", _INPUT), ("recurrent_kernel", _RAW))]
    lines += [architecture.Line(
        target=f"layer_{layer}/cell/{ours}", source=theirs + name, layout=gates(0))
        for ours, name in _BIASES.items()]
  tables = (_TABLE, _COPY, _OUTPUT) if model.tied else (_TABLE, _COPY)
  stale = [tuple(prefix + _LAYER.format(layer) + name for name in (_RAW, _DROPPED))
           for layer in range(model.num_layers)]
  return architecture.Map(
      lines=tuple(lines), copies=(tuple(prefix + name for name in tables),),
      unused=(r"opt(/.*)?", *(re.escape(dropped) for _, dropped in stale)),
      stale=tuple(stale))


def specs(model: Model, dtypes: Mapping[str, np.dtype]) -> dict[str, tree.Spec]:
  """Returns the tensors that fastai keeps of a model, by name.

  Args:
    model: What `model_of` returned.
    dtypes: Dtypes by name; others are float32.
  """
  table = (model.vocab_size, model.embed_width)
  found: dict[str, tuple[int, ...]] = {
      _TABLE: table, _COPY: table, _OUTPUT: (model.vocab_size, model.widths[-1]),
      _BIAS: table[:1]}
  for layer, (below, units) in enumerate(
      zip((model.embed_width, *model.widths), model.widths)):
    name = _LAYER.format(layer)
    found |= {name + _RAW: (4 * units, units), name + _INPUT: (4 * units, below),
              **{name + bias: (4 * units,) for bias in _BIASES.values()}}
  return {name: tree.Spec(shape=shape, dtype=dtypes.get(name, np.dtype(np.float32)),
                          axes=(), reads=()) for name, shape in found.items()}


def whole(model: Model, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns tensors with those that fastai keeps a second time under another name."""
  more = {_COPY: arrays[_TABLE], **({_OUTPUT: arrays[_TABLE]} if model.tied else {})}
  return {**arrays, **more}


def words(tokenizer: Any) -> list[str] | None:
  """Returns the list of words that fastai keeps of a tokenizer; None if it is another.

  A row without text is filled as fastai does it.
  """
  return tokenizer.itos() if isinstance(tokenizer, token_lists.Words) else None


def prefix_of(raw: architecture.Raw) -> str:
  """Returns what precedes the names of the model in a checkpoint of this map."""
  found = [name.removesuffix(_TABLE) for name in raw.specs if name.endswith(_TABLE)]
  return min(found, key=len, default="")


def _recognizes(raw: architecture.Raw) -> bool:
  rnns = any(map(_RNN.fullmatch, raw.specs))
  return rnns and any(name.endswith("encoder.weight") for name in raw.specs)


def _model(raw: architecture.Raw) -> Model:
  _refuse_others(raw)
  prefix = prefix_of(raw)
  numbers = sorted({int(found[1]) for name in raw.specs
                    if (found := _RNN.fullmatch(name))})
  if numbers != [*range(len(numbers))]:
    raise errors.UserError(f"{raw.path}: its layers are {numbers}: some are missing.")
  size = lambda name: raw.specs[prefix + name].shape
  missing = [prefix + name for name in (
      _OUTPUT, *(_LAYER.format(i) + _INPUT for i in numbers))
             if prefix + name not in raw.specs]
  if missing:
    raise errors.UserError(f"{raw.path}: it lacks {', '.join(missing)}.")
  vocab_size, embed_width = size(_TABLE)
  widths = [size(_LAYER.format(i) + _INPUT)[0] // 4 for i in numbers]
  return model_of(vocab_size, widths, embed_width, _tied(raw, prefix))


def _lines(raw: architecture.Raw, model: Model) -> architecture.Map:
  return map_of(model, prefix_of(raw))


def _tokenizer(raw: architecture.Raw, model: Model, repair: bool):
  del repair  # A list of another length cannot be repaired.
  found = sorted(
      path.name for path in raw.path.parent.iterdir() if path.suffix in _SUFFIXES
      and any(part in path.name.lower() for part in ("itos", "vocab")))
  if not found:
    return None
  if found[1:]:
    raise errors.UserError(
        f"{raw.path}: {', '.join(found)} may all be its vocabulary. Name one:"
        " --tokenizer=PATH (source.tokenizer in a config).")
  path = architecture.beside(raw, found[0])
  assert path is not None  # It was listed.
  return vocabulary(path, model)


def vocabulary(path: epath.Path, model: Model) -> tuple[Any, tuple[str, ...]]:
  """Reads the words of a model's rows.

  Args:
    path: The file, in one of the forms of `token_lists`.
    model: The model.

  Returns:
    The tokenizer, and a sentence on what it does not do.

  Raises:
    errors.UserError: If the file is none of fastai, or of another model.
  """
  listed = token_lists.read(path)
  if not isinstance(listed.tokenizer, token_lists.Words):
    raise errors.UserError(f"{path}: no vocabulary of fastai 1 or 2: xxunk is missing.")
  if listed.size != model.vocab_size:
    raise errors.UserError(
        f"{path} has {listed.size} words and the checkpoint {model.vocab_size} rows. It"
        " is the vocabulary of another model.")
  return listed.tokenizer, (listed.tokenizer.NOTE,)


def _refuse_others(raw: architecture.Raw) -> None:
  """Refuses what fastai saves in similar names and this map does not read."""
  names = raw.specs.keys()
  parts = [found[2] for name in names if (found := _RNN.fullmatch(name))]
  for wrong, what in (
      (any("linear." in part for part in parts),
       "a QRNN, whose cells no model here has. Only LSTMs are read"),
      (any("_reverse" in part for part in parts),
       "an LSTM that reads both ways, which predicts no next word"),
      (any(map(_CLASSIFIER.fullmatch, names)),
       "a classifier of texts. Save the language model that it was made of"),
      (any("encoder_with_dropout" in name or name.endswith(f"module.{_RAW}")
           for name in names),
       "in the names of fastai 0.7. Load it in fastai 1 or 2 and save it again"),
      (not any(name.endswith(_TABLE) for name in names),
       "an encoder alone, which has no output (learn.save_encoder). Save the whole"
       " model: learn.save(name)"),
      (not any(name.endswith(_BIAS) for name in names),
       f"without {_BIAS}: the output of a model here has a bias if its cells do")):
    if wrong:
      raise errors.UserError(f"{raw.path}: {what}.")


def _tied(raw: architecture.Raw, prefix: str) -> bool:
  """Whether the output is the embedding table, which nothing but the numbers says."""
  both = [prefix + _TABLE, prefix + _OUTPUT]
  table, output = (raw.leaves[name] for name in both)
  # PyTorch stores a shared tensor once. Copies, as in safetensors, have to be compared.
  if table.shape != output.shape or table == output:
    return table == output
  table, output = (array for _, array in raw.read(both))
  return np.array_equal(table, output)


MAP = architecture.Architecture(
    name="awd_lstm", what="fastai's AWD-LSTM language models (.pth)",
    recognizes=_recognizes, model=_model, lines=_lines, tokenizer=_tokenizer)
