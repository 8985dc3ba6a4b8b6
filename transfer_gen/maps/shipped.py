"""All maps that ship; chooses the one for a checkpoint or for a model."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import awd_lstm
from transfer_gen.maps import basic_lstm
from transfer_gen.maps import encoder_maps
from transfer_gen.maps import gemma
from transfer_gen.maps import gpt2
from transfer_gen.maps import gpt_neox
from transfer_gen.maps import hugging_face
from transfer_gen.maps import keras_seq2seq
from transfer_gen.maps import keras_stack
from transfer_gen.maps import llama
from transfer_gen.maps import llama2c
from transfer_gen.maps import opt
from transfer_gen.maps import pair_maps
from transfer_gen.maps import textgenrnn

# The first map that recognizes a checkpoint reads it, so special ones come first:
# `keras_stack` takes every Keras file that has a config.
MAPS = (basic_lstm.MAP, textgenrnn.MAP, keras_seq2seq.MAP, keras_stack.MAP, gpt2.MAP,
        opt.MAP, gpt_neox.MAP, llama.MAP, gemma.MAP, *encoder_maps.MAPS,
        *pair_maps.MAPS, llama2c.MAP, awd_lstm.MAP)
# Those that Hugging Face Transformers loads; the first that can hold a model writes it.
FAMILIES = (gpt2.FAMILY, opt.FAMILY, gpt_neox.FAMILY, llama.FAMILY, gemma.FAMILY,
            *encoder_maps.FAMILIES, *pair_maps.FAMILIES)


_TENSORFLOW = (".h5", ".hdf5", ".keras")
_RENAMED = '{"map": NAME, "renamed": {"(.*)/weights": "\\\\1/kernel"}}'


def choose(raw: architecture.Raw, name: str = "") -> architecture.Architecture:
  """Chooses the map of a checkpoint.

  Args:
    raw: The checkpoint.
    name: Name of the map. If empty, it is detected.

  Raises:
    errors.UserError: If there is no map of that name, or none recognizes the
      checkpoint; the message lists them.
  """
  known = "\n".join(f"  {entry.name}: {entry.what}" for entry in MAPS)
  if name:
    found = [entry for entry in MAPS if entry.name == name]
    if not found:
      raise errors.UserError(
          f"There is no map {name!r}. Give the path of a .json file, or one"
          f" of\n{known}")
    _check_form(raw, found[0])
    _check_named(raw, found[0])
    return found[0]
  with architecture.understood(raw, raw.kind):
    found = [entry for entry in MAPS if entry.recognizes(raw)]
  if not found:
    raise errors.UserError(
        f"{raw.path}: a {raw.kind}, and no map recognizes it. Its config file must lie"
        f" beside it; or name a map of your own (.json), which may be one of these with"
        f" other names of leaves ({_RENAMED}). There are\n{known}")
  _check_form(raw, found[0])
  return found[0]


# Models of TensorFlow have other names and arrangements than those of PyTorch,
# and each leaf would be a misfit of its own.
def _check_form(raw: architecture.Raw, chosen: architecture.Architecture) -> None:
  """Refuses weights that Transformers wrote for TensorFlow."""
  if raw.path.suffix in _TENSORFLOW and chosen.name in {f.name for f in FAMILIES}:
    raise errors.UserError(
        f"{raw.path}: weights of {chosen.name} that Transformers saved for"
        " TensorFlow, and only those for PyTorch are read"
        " (model.safetensors, pytorch_model.bin). Fetch these, which most models have"
        " as well; or save them with Transformers 4 and TensorFlow: load the folder"
        " with AutoModel.from_pretrained(FOLDER, from_tf=True), then"
        " save_pretrained(NEW_FOLDER).")


# Whoever names a family may know better than the type in its config, which is why only
# the others are checked: they find out by names of leaves what they read.
def _check_named(raw: architecture.Raw, chosen: architecture.Architecture) -> None:
  if chosen.name in {family.name for family in FAMILIES}:
    return
  with architecture.understood(raw, chosen.what):
    recognized = chosen.recognizes(raw)
  if not recognized:
    raise errors.UserError(
        f"{raw.path}: the map {chosen.name} reads {chosen.what}, and does not recognize"
        f" this {raw.kind} by its names: {', '.join(list(raw.specs)[:4])} ... If they"
        f" are other names for the same leaves, write a map file with {_RENAMED}.")


def family_of(
    model: config_lib.Decoder, name: str = ""
) -> tuple[hugging_face.Family, dict[str, Any]]:
  """Returns a family that can hold a model, and the fields of its `config.json`.

  Args:
    model: The model's config.
    name: Name of the family. If empty, the first that can hold the model is taken.

  Raises:
    errors.UserError: If none can; the message lists the fields that it lacks.
  """
  known = [family for family in FAMILIES if name in ("", family.name)]
  if not known:
    raise errors.UserError(
        f"There is no map {name!r} to write; there are"
        f" {', '.join(family.name for family in FAMILIES)}.")
  wrong = []
  # A family that was asked for by name is tried in any case, so that the error says why
  # it cannot hold the model.
  for family in [f for f in known if name or f.kind is type(model)]:
    try:
      return family, hugging_face.write(family, model)
    except errors.UserError as error:
      wrong.append(str(error))
  raise errors.UserError("\n  ".join(
      ["No architecture of Transformers that is known here computes this:", *wrong]))


def decoding(
    raw: architecture.Raw, name: str, model: Any
) -> tuple[config_lib.Decoding, tuple[str, ...]]:
  """Returns how a checkpoint writes texts, as the files beside it say.

  Args:
    raw: The checkpoint.
    name: Name of its map; only maps of Transformers know such files.
    model: Config of our model that computes the same.

  Returns:
    The settings, and a sentence if some are ignored that change texts.

  Raises:
    errors.UserError: If a setting is of the wrong type.
  """
  if name not in {family.name for family in FAMILIES}:
    return config_lib.Decoding(), ()
  return hugging_face.decoding(raw, model)


def writes_back(view: architecture.Mapped | None) -> bool:
  """Returns whether a checkpoint was read by the map of one of the families."""
  return view is not None and view.name in {family.name for family in FAMILIES}


def kept(view: architecture.Mapped | None) -> list[str]:
  """Returns the weights of a checkpoint that our model lacks, by their names there.

  They belong to other outputs of its architecture, such as BERT's for pairs of texts.
  """
  return [name for family in FAMILIES if view is not None and view.name == family.name
          for name in hugging_face.kept(family, view)]
