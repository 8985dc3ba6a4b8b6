"""The forms that `convert` writes, each from a source into an empty folder."""

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import adapted
from transfer_gen.export import keras_folder
from transfer_gen.export import merged
from transfer_gen.export import orbax_folder
from transfer_gen.export import safetensors_folder


def to_orbax(
    source: sources.Source, folder: epath.Path, name: str, dtype: str
) -> tuple[str, ...]:
  """Writes a workdir with one checkpoint, at step 0.

  Args:
    source: The checkpoint.
    folder: Empty folder to write into.
    name: Not read: there is one form.
    dtype: Not read: params of a workdir are float32.

  Returns:
    Sentences about what could not be written.

  Raises:
    errors.UserError: If the source is a checkpoint of a run already.
  """
  del name, dtype
  if source.view is None and not source.adapters:
    raise errors.UserError(
        f"{source.title}: of this form already. Take another --to.")
  # Where adapters are merged, the specs are those of the model alone, so that the new
  # workdir has a plain model.
  assert source.model is not None  # A map and adapters both have one.
  decoding, notes = source.decoding
  orbax_folder.write(
      folder, source.model, merged.params(source), merged.specs(source),
      source.tokenizer, decoding, bool(source.reverse))
  notes += merged.left_out(source)
  return notes if source.tokenizer else (*notes, merged.NO_TOKENIZER)


def to_keras(
    source: sources.Source, folder: epath.Path, name: str, dtype: str
) -> tuple[str, ...]:
  """Writes a recurrent model with its config and tokenizer.

  Args:
    source: The checkpoint.
    folder: Empty folder to write into.
    name: Not read: the model says which form it has.
    dtype: Not read: weights of Keras are float32 here.

  Returns:
    Sentences about what could not be written.

  Raises:
    errors.UserError: If the model is not recurrent, or no model of Keras computes the
      same.
  """
  del name, dtype
  if not isinstance(source.model, config_lib.Recurrent):
    raise errors.UserError(
        f"{source.title}: a {type(source.model).__name__} is no model of Keras"
        " that is known here. Take --to=safetensors.")
  notes = keras_folder.write_folder(
      folder, source.model, merged.params(source), source.tokenizer)
  return notes if source.tokenizer else (merged.NO_TOKENIZER,)


# By the values of `--to`; `convert` lists them where another one is given.
FORMS = {"orbax": to_orbax, "safetensors": safetensors_folder.write,
         "keras": to_keras, "peft": adapted.write}
NARROW = ("safetensors",)  # Those that can hold other dtypes than float32.
