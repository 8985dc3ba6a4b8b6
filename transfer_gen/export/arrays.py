"""Our params under the names, and in the layouts, of another framework."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_gen import tree
from transfer_gen.maps import mapped
from transfer_gen.models import registry


# The map that reads a checkpoint also writes it, so that no second list of names can
# differ from it. Only leaves of the model are passed on, since a map has no lines for
# others.
def export(
    how: mapped.Map, theirs: Mapping[str, tree.Spec], model: registry.Config,
    params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Goes through a map backwards.

  Args:
    how: Map of the checkpoint that is to be written.
    theirs: Specs of its leaves.
    model: Config of our model.
    params: Leaves of our model, by name.

  Returns:
    Every leaf of the checkpoint, by its own name.

  Raises:
    errors.UserError: If the map does not fit, or an element would have no value.
  """
  specs = registry.specs(registry.build(model))
  return mapped.export(
      mapped.resolve(how, theirs, specs), theirs,
      {name: np.asarray(params[name]) for name in specs})
