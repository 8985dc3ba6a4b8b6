"""Writes models as safetensors: Transformers' own, or recurrent ones for fastai."""

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import sources
from transfer_gen.export import fastai_folder
from transfer_gen.export import hugging_face_folder
from transfer_gen.export import merged


def write(
    source: sources.Source, folder: epath.Path, name: str, dtype: str
) -> tuple[str, ...]:
  """Writes a model with its tokenizer; files of Transformers go along unchanged.

  Args:
    source: The checkpoint.
    folder: Empty folder to write into.
    name: Name of the architecture of Transformers. If empty, the first that can hold
      the model.
    dtype: Name of the dtype that all leaves get; see `convert.convert` for "".

  Returns:
    Sentences about what could not be written.

  Raises:
    errors.UserError: If neither an architecture of Transformers nor AWD-LSTM can hold
      the model.
  """
  if not isinstance(source.model, config_lib.Decoder):
    return fastai_folder.write(folder, source, dtype)
  params = merged.params(source)
  # Files that Transformers itself wrote are surer than new ones made from our fields.
  if hugging_face_folder.came_from_there(source):
    return hugging_face_folder.write_back(folder, source, params, dtype)
  return hugging_face_folder.write(
      folder, source.model, params, source.tokenizer, name, source.decoding[0],
      dtype or "float32")
