"""Checkpoints seen under our names: specs without arrays, leaves in batches."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import jax

from transfer_gen import checkpoint
from transfer_gen import tree


@dataclasses.dataclass(frozen=True)
class Memory:
  """A source that is in memory already.

  Attributes:
    specs: Spec of each leaf.
    arrays: The leaves.
  """
  specs: dict[str, tree.Spec]
  arrays: Mapping[str, Any]

  def read(
      self, names: Sequence[str],
      shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says."""
    for name in names:
      where = shardings[name] if shardings else None
      yield name, jax.device_put(self.arrays[name], where)


def open(  # pylint: disable=redefined-builtin
    path: epath.PathLike, step: int = -1) -> checkpoint.Stored:
  """Opens a checkpoint of ours: a run's workdir or one of its checkpoints.

  Args:
    path: Where it is.
    step: Which one of a run. -1: the best, or the last where none was validated.

  Raises:
    errors.UserError: If nothing is there that can be read.
  """
  return checkpoint.find(path, step)


def from_tree(arrays: Any, table: tree.AxesTable | None = None) -> Memory:
  """Any pytree of arrays as a source.

  Args:
    arrays: Leaves in `tree.Axes` boxes, or named by `table`.
    table: {regex over leaf names: axes, or (axes, reads)}.

  Raises:
    errors.UserError: If a leaf has no axes.
  """
  return Memory(tree.specs(arrays, table), tree.unbox(arrays))
