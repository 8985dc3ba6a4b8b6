"""Arrays in memory as a source: any pytree, of any framework."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from transfer_gen import tree
from transfer_gen.sources import source as source_lib


# Frameworks of other kinds come in here: all that a leaf needs is what `device_put`
# accepts, so a user can load a checkpoint by any means and transfer from its arrays.
class Memory(source_lib.Source):
  """A source whose leaves are in memory already.

  Attributes:
    specs: Spec of each leaf.
    arrays: The leaves, by name.
  """

  def __init__(self, specs: Mapping[str, tree.Spec], arrays: Mapping[str, Any]):
    self._specs, self.arrays = specs, arrays

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{len(self.arrays)} arrays in memory"

  @property
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of each leaf."""
    return self._specs

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), a copy that is placed where `shardings` says."""
    # Training steps donate what they are given, and these arrays are the caller's.
    for name in names:
      if picks and name in picks:
        yield name, source_lib.placed(
            name, np.asarray(self.arrays[name]), shardings, picks)
      else:
        where = shardings[name] if shardings else None
        yield name, jax.device_put(self.arrays[name], where, may_alias=False)


def from_tree(arrays: Any, table: tree.AxesTable | None = None) -> Memory:
  """Makes a source of any pytree of arrays.

  Args:
    arrays: Leaves in `tree.Axes` boxes, or with axes that `table` names.
    table: {regex over whole leaf names: axes, or (axes, axes that the leaf reads)}.

  Returns:
    A source whose leaf names are the keys on the way to each leaf, joined by "/".

  Raises:
    errors.UserError: If a leaf has no axes, or not one for each dimension.

  Example:
    >>> import numpy as np
    >>> from transfer_gen import sources
    >>> source = sources.from_tree(
    ...     {"up": {"kernel": np.zeros((2, 3))}},
    ...     {"up/kernel": (("embed", "mlp"), ("embed",))})
    >>> source.specs["up/kernel"].axes
    ('embed', 'mlp')
    >>> [(name, array.shape) for name, array in source.read(["up/kernel"])]
    [('up/kernel', (2, 3))]
  """
  return Memory(tree.specs(arrays, table), tree.unbox(arrays))
