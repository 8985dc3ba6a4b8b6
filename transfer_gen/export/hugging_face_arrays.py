"""Writes the arrays of a Transformer under the names of Hugging Face Transformers."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.export import arrays as arrays_lib
from transfer_gen.formats import safetensors
from transfer_gen.maps import hugging_face
from transfer_gen.models import registry


def write(
    folder: epath.Path, family: hugging_face.Family, model: config_lib.Decoder,
    params: Mapping[str, Any], dtypes: Mapping[str, np.dtype],
) -> None:
  """Writes `model.safetensors`.

  Args:
    folder: Folder of the model.
    family: Architecture that can hold the model.
    model: Config of the model.
    params: Its leaves by our names.
    dtypes: By our names: dtype that a leaf is written in, if not in its own.
  """
  specs = registry.specs(registry.build(model))
  how = hugging_face.lines(family, model)
  theirs = hugging_face.specs_before(how, specs, dtypes)
  arrays = arrays_lib.export(how, theirs, model, params)
  # Transformers writes this entry of the metadata too, and its version 4 refuses a file
  # whose metadata names no framework.
  safetensors.write_file(folder / "model.safetensors", arrays, {"format": "pt"})
