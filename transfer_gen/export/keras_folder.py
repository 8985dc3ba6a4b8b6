"""Writes recurrent models for Keras, each with its config beside it.

By habit as Keras 3's `.weights.h5` and as the `.keras` archive with the same weights; a
textgenrnn as its own `.hdf5`, Keras 2's form.
"""

from collections.abc import Mapping
import json
from typing import Any
import zipfile

from etils import epath

from transfer_gen import errors
from transfer_gen.data import tokenizers
from transfer_gen.export import arrays as arrays_lib
from transfer_gen.formats import hdf5_write
from transfer_gen.maps import keras_out
from transfer_gen.maps import textgenrnn_out

SUFFIX, CONFIG = ".weights.h5", "config.json"
ARCHIVE = "model.keras"
_METADATA = {"keras_version": "3.0.0", "date_saved": "1980-01-01@00:00:00"}
# Keras takes a file without its version for one of Keras 1 and converts the weights.
_KERAS_2 = {"keras_version": "2.1.5", "backend": "tensorflow"}


def write(
    path: epath.PathLike, model: keras_out.Model, params: Mapping[str, Any]
) -> None:
  """Writes what `keras.models.model_from_json` and `load_weights` read.

  The weights are ours, each number once and unchanged; the config goes to
  `config.json` in the same folder, where `sources.foreign` finds it again too.

  Args:
    path: A file that ends in `.weights.h5`; its folder is made.
    model: Config of the model, with the size of its vocabulary.
    params: Its leaves by name.

  Raises:
    errors.UserError: If the name is another, or no Keras model computes the same.
  """
  path = epath.Path(path)
  if not path.name.endswith(SUFFIX):
    raise errors.UserError(f"{path}: Keras wants a name that ends in {SUFFIX}.")
  raw, known = keras_out.contents(path, model)
  arrays, _ = arrays_lib.export(
      known.lines(raw, model), raw.specs, model, params)
  path.parent.mkdir(parents=True, exist_ok=True)
  hdf5_write.write(path, arrays)
  # A `.weights.h5` holds weights alone, and the config says of which model they are.
  (path.parent / CONFIG).write_text(json.dumps(raw.facts["model_config"], indent=1))


def write_folder(
    folder: epath.PathLike, model: keras_out.Model, params: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None,
) -> tuple[str, ...]:
  """Writes what Keras loads: two files with one model, or a textgenrnn's three files.

  `keras.models.load_model` opens `model.keras`, and `load_weights` takes
  `model.weights.h5` for a model made from `config.json`. A textgenrnn's files are what
  `textgenrnn(weights_path=, config_path=, vocab_path=)` reads: weights with their
  `weight_names` and, of a model with `recurrent_bias`, in cuDNN's layout. Each number
  is ours, unchanged.

  Args:
    folder: Where to; it is made.
    model: Config of the model, with the size of its vocabulary.
    params: Its leaves by name.
    tokenizer: Of its ids, where there is one.

  Returns:
    Sentences on what could not be written.

  Raises:
    errors.UserError: If no Keras model computes the same.
  """
  folder = epath.Path(folder)
  if tokenizer is not None:
    tokenizer.save(folder / tokenizers.FOLDER)
  # Keras 3 has neither textgenrnn's attention nor the hard sigmoid of Keras 2.
  if textgenrnn_out.has(model):
    return _write_textgenrnn(folder, model, params, tokenizer)
  write(folder / f"model{SUFFIX}", model, params)
  _write_archive(folder)
  return ()


# Members are stored as they are, as Keras does, so that weights can be read in place;
# all have one date, so that equal models give equal files.
def _write_archive(folder: epath.Path) -> None:
  """Writes the archive of the two files that lie in a folder."""
  members = {"metadata.json": json.dumps(_METADATA).encode(),
             "config.json": (folder / CONFIG).read_bytes(),
             f"model{SUFFIX}": (folder / f"model{SUFFIX}").read_bytes()}
  with (folder / ARCHIVE).open("wb") as file, zipfile.ZipFile(file, "w") as archive:
    for name, data in members.items():
      archive.writestr(zipfile.ZipInfo(name), data)


# Keras 2 finds weights by their order: `layer_names` and `weight_names` list them,
# while names in the file repeat the layer and end in :0, as TensorFlow's variables do.
def _write_textgenrnn(
    folder: epath.Path, model: keras_out.Model, params: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None) -> tuple[str, ...]:
  name = textgenrnn_out.NAME
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f"{name}_config.json").write_text(json.dumps(textgenrnn_out.config(model)))
  path = folder / f"{name}_weights.hdf5"
  raw, known = textgenrnn_out.contents(path, model)
  arrays, _ = arrays_lib.export(
      known.lines(raw, model), raw.specs, model, params)
  layers = {layer: [f"{layer}/{leaf}:0" for leaf in leaves]
            for layer, leaves in textgenrnn_out.layers(model).items()}
  hdf5_write.write(
      path,
      {f"{leaf.split('/')[0]}/{leaf}:0": value for leaf, value in arrays.items()},
      {"": {"layer_names": list(layers), **_KERAS_2},
       **{layer: {"weight_names": names} for layer, names in layers.items()}})
  vocabulary = {} if tokenizer is None else textgenrnn_out.vocabulary(
      tokenizer.tokens, tokenizer.roles)
  if not vocabulary:
    return ("No vocabulary was written: theirs has one token that begins and ends a"
            " text, one for each character, and no other.",)
  (folder / f"{name}_vocab.json").write_text(json.dumps(vocabulary))
  return ()
