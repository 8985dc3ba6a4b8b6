"""Writes a recurrent model as Keras 3's `.weights.h5`, with its config beside it."""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import registry
from transfer_gen.sources import hdf5_write
from transfer_gen.sources import mapped
from transfer_gen.sources.maps import keras_out

SUFFIX, CONFIG = ".weights.h5", "config.json"


def write(
    path: epath.PathLike, model: config_lib.Recurrent, params: Mapping[str, Any]
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
  specs = registry.specs(registry.build(model))
  rows = mapped.resolve(known.lines(raw, model), raw.specs, specs)
  arrays = mapped.export(
      rows, raw.specs, {name: np.asarray(params[name]) for name in specs})
  path.parent.mkdir(parents=True, exist_ok=True)
  hdf5_write.write(path, arrays)
  (path.parent / CONFIG).write_text(json.dumps(raw.facts["model_config"], indent=1))
