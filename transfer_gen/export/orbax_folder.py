"""Writes any checkpoint as the workdir of a run, to transfer from or generate with."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.models import registry


def write(
    folder: epath.Path,
    model: config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch,
    params: Mapping[str, Any],
    specs: checkpoint.Specs,
    tokenizer: tokenizers.Tokenizer | None = None,
    decoding: config_lib.Decoding | None = None,
    reverse: bool = False,
) -> None:
  """Writes a workdir with one checkpoint, at step 0.

  Args:
    folder: Empty folder to write into.
    model: Config of the model.
    params: Its leaves by name.
    specs: Spec of each leaf.
    tokenizer: Tokenizer of the model's ids, if there is one.
    decoding: How the model writes texts. If None, `config.Decoding()`.
    reverse: Whether it reads and writes them from right to left. By default it does
      not.
  """
  checkpoints = checkpoint.Checkpoints(folder)
  # As a best checkpoint: those have no optimizer state, and there is none to write.
  checkpoints.save_best(0, params, {
      "axes": checkpoint.axes_facts(specs), "constants": registry.constants(model)})
  checkpoints.close()
  if tokenizer is not None:
    tokenizer.save(folder / tokenizers.FOLDER)
  # The texts of others were not cleaned as ours are: a prompt may end in a space.
  data = config_lib.Data(newline="keep", reverse=reverse)
  whole.write_json(folder / codec.CONFIG, codec.run_to_json(config_lib.Run(
      model=model, data=data, decoding=decoding or config_lib.Decoding())))
