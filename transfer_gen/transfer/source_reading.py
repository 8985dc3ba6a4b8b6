"""Decides which entries of a source leaf are read, and onto which devices.

Processes that restore together each read what their own devices need. Where entries of
the target are copies of single entries of the source, these are read, wherever they
lie. Where all entries of the source are needed, as for their mean, each process reads
its share of them, and the devices exchange what they have read.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math

import jax
import numpy as np

from transfer_gen import sharding as sharding_lib
from transfer_gen.transfer import resolve


@dataclasses.dataclass(frozen=True)
class Together:
  """Puts together what several processes have read of a leaf.

  Attributes:
    sharding: Of the result; whole along the axes whose size changes.
    shape: Of the result; what was read may have more entries, that devices divide.
  """
  sharding: jax.sharding.NamedSharding
  shape: tuple[int, ...]

  def __call__(self, value: jax.Array) -> jax.Array:
    """Returns the leaf."""
    # A program of its own: what is computed of the leaf is then the same as of one that
    # was read whole, down to the order of sums.
    return _cut(self)(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """How a source leaf is read.

  Attributes:
    sharding: Where what is read is placed.
    pick: Which entries are read along some dimensions; -1 means none, zeros.
    taken: Whether these are the entries of the target already.
    together: Puts together what was read in parts, if it was.
  """
  sharding: jax.sharding.Sharding
  pick: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
  taken: bool = False
  together: Together | None = None


def decide(
    wanting: Sequence[resolve.Row], sharding: jax.sharding.Sharding,
    shape: tuple[int, ...]
) -> Reading:
  """Decides how a source leaf is read.

  Args:
    wanting: The rows that want it; the first one's target says where it is placed.
    sharding: Sharding of that target.
    shape: Shape of the leaf.
  """
  row, changes = wanting[0], wanting[0].changes
  if not changes:
    return Reading(sharding=sharding)
  alone = sharding.is_fully_addressable
  if not wanting[1:] and not row.sources[1:] and all(map(_copies, changes)):
    pick = {change.dim: np.asarray(change.binding.index) for change in changes}
    # One process reads all that is needed in any case, and its devices repeat entries
    # faster than the host does.
    if not alone or any(
        len(np.unique(index[index >= 0])) < shape[dim] for dim, index in pick.items()):
      return Reading(sharding=sharding, pick=pick, taken=True)
  # An entry of the target may come from any part of an axis whose size changes.
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return Reading(sharding=sharding)
  divided = sharding_lib.axes_of(sharding, len(shape))
  changed = {change.dim for change in changes}
  parts = [None if dim in changed or not axes else axes
           for dim, axes in enumerate(divided)]
  whole = jax.sharding.NamedSharding(
      sharding.mesh, jax.sharding.PartitionSpec(*parts))
  if alone or wanting[1:]:
    return Reading(sharding=whole)
  return Reading(
      sharding=sharding, together=Together(whole, shape), pick={
          change.dim: _padded(shape[change.dim], math.prod(
              sharding.mesh.shape[axis] for axis in divided[change.dim]))
          for change in changes})


@functools.lru_cache(maxsize=64)
def _cut(to: Together) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(lambda value: value[tuple(slice(0, size) for size in to.shape)],
                 out_shardings=to.sharding)


def _copies(change: resolve.Change) -> bool:
  """Whether each entry is that of one source entry, zero, or the model's own."""
  binding = change.binding
  return binding.mixture is None and not (change.reads and binding.noise) and (
      binding.fresh in ("zeros", "init") or bool((binding.index >= 0).all()))


def _padded(size: int, parts: int) -> np.ndarray:
  """Returns all entries of a dimension, and as many -1 as make equal parts."""
  index = np.full(-(-size // parts) * parts, -1, np.int32)
  index[:size] = np.arange(size)
  return index
