"""TensorFlow 1 language models of `BasicLSTMCell`s, as ml5 ships its CharRNNs.

A cell has one kernel [D + U, 4 U] over input and state, gates i, j, f, o, and adds 1.0
to the forget gate while it runs. `vocab.json` beside it gives each character its row.
"""

import re

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds
from transfer_gen.maps import architecture
from transfer_gen.maps import character_table
from transfer_gen.maps import layouts

_KERNEL = re.compile(
    r"(.*?)(?:multi_rnn_cell/)?(?:cell_(\d+)/)?basic_lstm_cell/kernel")
_ORDER = (0, 2, 1, 3)  # Ours: i, f, g (their j), o.


def _recognizes(raw: architecture.Raw) -> bool:
  return bool(_kernels(raw)) and "embedding" in raw.specs


def _model(raw: architecture.Raw) -> config_lib.Recurrent:
  kernels = _kernels(raw)
  widths = tuple(raw.specs[name].shape[-1] // 4 for name in kernels)
  vocab_size, embed_width = raw.specs["embedding"].shape
  if any(width != widths[0] for width in widths):
    raise errors.UserError(f"{raw.path}: cells of {widths} units, and no map for that.")
  return config_lib.Recurrent(
      vocab_size=vocab_size, cell="lstm", num_layers=len(kernels),
      embed_width=embed_width, hidden_width=widths[0], forget_bias=1.0)


def _lines(raw: architecture.Raw, model: config_lib.Recurrent) -> architecture.Map:
  units = model.hidden_width
  gates = lambda dim: (layouts.Unflatten(dim=dim, shape=(4, units)),
                       layouts.Permute(dim=dim, index=_ORDER))
  lines = [architecture.Line(target="embed/embedding", source="embedding")]
  for layer, kernel in enumerate(_kernels(raw)):
    # One kernel multiplies the input and the state concatenated: the first rows are the
    # input's, the others the state's.
    sizes = (model.embed_width if layer == 0 else units, units)
    lines += [
        architecture.Line(
            target=f"layer_{layer}/cell/{ours}", source=kernel,
            layout=layouts.Chain(parts=(
                layouts.Part(dim=0, parts=sizes, index=index), *gates(1))))
        for index, ours in enumerate(("input_kernel", "recurrent_kernel"))]
    lines.append(architecture.Line(
        target=f"layer_{layer}/cell/bias",
        source=kernel.removesuffix("kernel") + "bias",
        layout=layouts.Chain(parts=gates(0))))
  matched = _KERNEL.fullmatch(_kernels(raw)[0])
  assert matched is not None  # _kernels lists what matches.
  scope = matched[1]
  lines += [architecture.Line(target="head/kernel", source=f"{scope}softmax_w"),
            architecture.Line(target="head/bias", source=f"{scope}softmax_b")]
  # The number of steps that it was trained for.
  return architecture.Map(lines=tuple(lines), unused=("Variable", "global_step"))


def _tokenizer(raw: architecture.Raw, model: config_lib.Recurrent, repair: bool):
  path = architecture.beside(raw, "vocab.json")
  if path is None:
    return None
  rows, _, notes = character_table.read(path, model.vocab_size, repair=repair)
  return tokenizer_kinds.Characters(rows, {}), notes


def _kernels(raw: architecture.Raw) -> list[str]:
  """Returns the names of the cells' kernels in the order of layers."""
  # A model of one cell has no number in its names. Numbers are sorted as integers, so
  # that cell_10 comes after cell_9.
  found = {int(match[2] or 0): name for name in raw.specs
           if (match := _KERNEL.fullmatch(name)) and len(raw.specs[name].shape) == 2}
  return [found[layer] for layer in sorted(found)]


MAP = architecture.Architecture(
    name="basic_lstm", what="TensorFlow 1 BasicLSTMCells, as in ml5's CharRNN",
    recognizes=_recognizes, model=_model, lines=_lines, tokenizer=_tokenizer)
