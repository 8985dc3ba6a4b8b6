"""Writes the arrays of a Transformer under the names of Hugging Face Transformers."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.config import names as names_lib
from transfer_gen.export import arrays as arrays_lib
from transfer_gen.formats import safetensors
from transfer_gen.maps import hugging_face
from transfer_gen.models import registry


def write(
    folder: epath.Path, family: hugging_face.Family, model: config_lib.Decoder,
    params: Mapping[str, Any], dtypes: Mapping[str, np.dtype],
    more: Mapping[str, np.ndarray] | None = None,
) -> tuple[str, ...]:
  """Writes `model.safetensors`.

  Args:
    folder: Folder of the model.
    family: Architecture that can hold the model.
    model: Config of the model.
    params: Its leaves by our names.
    dtypes: By our names: dtype that a leaf is rounded to, if not its own.
    more: Further leaves, by their names there. By default there are none.

  Returns:
    A sentence on what was rounded, if numbers changed.

  Raises:
    errors.UserError: If a number is too large for its dtype.
  """
  specs = registry.specs(registry.build(model))
  how = hugging_face.lines(family, model)
  theirs = hugging_face.specs_before(how, specs, dtypes)
  arrays, notes = arrays_lib.export(how, theirs, model, params)
  arrays |= more or {}
  # Transformers writes this entry of the metadata too, and its version 4 refuses a file
  # whose metadata names no framework.
  safetensors.write_file(folder / "model.safetensors", arrays, {"format": "pt"})
  return notes


def unshared(
    model: config_lib.Decoder, params: Mapping[str, Any]
) -> tuple[config_lib.Decoder, Mapping[str, Any], tuple[str, ...]]:
  """Returns a model whose sides share no blocks, as Transformers has them from 5 on.

  Args:
    model: Config of the model; one that shares none is returned as it is.
    params: Its leaves by our names.

  Returns:
    The model, its leaves, and a sentence if they were written for both sides.
  """
  if not isinstance(model, config_lib.EncoderDecoder) or not model.shared:
    return model, params, ()
  fields = {field.name: getattr(model, field.name)
            for field in dataclasses.fields(config_lib.Decoder)}
  apart = dataclasses.replace(
      model, shared=False, encoder_vocab_size=model.vocab_size,
      encoder=config_lib.Encoder(**fields, head=False))
  names = registry.specs(registry.build(apart))
  of = lambda name: params[name if name in params else name.removeprefix(
      names_lib.ENCODER) if name.endswith(names_lib.TOKEN_TABLE) else name.replace(
          names_lib.ENCODER, names_lib.DECODER, 1)]
  return apart, {name: of(name) for name in names}, (
      "Transformers shares no blocks between encoder and decoder: they are written for"
      " both, and go their own ways when they are trained there.",)
