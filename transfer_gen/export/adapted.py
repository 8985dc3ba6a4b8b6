"""Writes the adapters of a run for PEFT, with the model that they adapt if need be."""

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import hugging_face_folder
from transfer_gen.export import merged
from transfer_gen.export import peft_base
from transfer_gen.export import peft_folder
from transfer_gen.formats import whole


# PEFT loads adapters onto a model that it finds by a path. The path that is recorded is
# the final one: `folder` is renamed only when everything in it is written.
def write(
    source: sources.Source, folder: epath.Path, name: str, dtype: str
) -> tuple[str, ...]:
  """Writes the adapters of a run, and the model that they adapt if nobody has it.

  Args:
    source: The checkpoint.
    folder: Empty folder to write into.
    name: Name of the architecture. If empty, the first that can hold the model.
    dtype: Not read: all is float32.

  Returns:
    Sentences about what could not be written.

  Raises:
    errors.UserError: If the source has no adapters, or no architecture of Transformers
      holds the model.
  """
  del dtype
  if not source.adapters:
    raise errors.UserError(f"{source.title}: no run with adapters.")
  if not isinstance(source.model, config_lib.Decoder):
    raise errors.UserError(
        f"{source.title}: Transformers has no {type(source.model).__name__}"
        " for PEFT to stand beside. Its workdir holds its adapters.")
  params = dict(source.read(list(source.specs)))
  base, notes = peft_base.find(source), ()
  if base is None:
    own = {leaf: params[leaf] for leaf in merged.specs(source)}
    (folder / "base").mkdir()
    notes = hugging_face_folder.write(
        folder / "base", source.model, own, source.tokenizer, name)
    base = str(whole.final_name(folder) / "base")
  return (*peft_folder.write(
      folder, source.model, params, source.adapters, base, name), *notes)
