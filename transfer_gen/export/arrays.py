"""Our params under the names, and in the layouts, of another framework."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_gen import tree
from transfer_gen.export import rounding
from transfer_gen.maps import mapped
from transfer_gen.models import registry


# The map that reads a checkpoint also writes it, so that no second list of names can
# differ from it. Only leaves of the model are passed on, since a map has no lines for
# others.
def export(
    how: mapped.Map, theirs: Mapping[str, tree.Spec], model: registry.Config,
    params: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Goes through a map backwards.

  Args:
    how: Map of the checkpoint that is to be written.
    theirs: Specs of its leaves; ours are rounded to their dtypes, see `rounding`.
    model: Config of our model.
    params: Leaves of our model, by name.

  Returns:
    Every leaf of the checkpoint, by its own name, and a sentence if rounding changed
    numbers.

  Raises:
    errors.UserError: If the map does not fit, an element would have no value, or a
      number is too large for its dtype.
  """
  specs = registry.specs(registry.build(model))
  rows = mapped.resolve(how, theirs, specs)
  # Before the layouts, so that a number that does not fit is named by its leaf here.
  narrow, notes = rounding.rounded(
      {name: params[name] for name in specs},
      {row.name: theirs[row.sources[0]].dtype for row in rows})
  return mapped.export(rows, theirs, narrow), notes
