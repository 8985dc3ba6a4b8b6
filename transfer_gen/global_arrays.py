"""Arrays that lie on the devices of several processes; in a single one, plain arrays.

Axes: B rows of a batch, over all processes.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from transfer_gen import processes


def is_whole(array: Any) -> bool:
  """Whether this process holds all of an array."""
  return getattr(array, "is_fully_addressable", True) or array.is_fully_replicated


def whole(array: Any) -> np.ndarray:
  """Returns an array on the host, also if other processes hold parts of it.

  Then all processes must call this.
  """
  if is_whole(array):
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)


def place(tree: Any, shardings: Any) -> Any:
  """Places a tree of arrays.

  Args:
    tree: The arrays. Those that lie in a single process must be the same in each.
    shardings: A sharding for each.
  """
  # `jax.device_put` would send those of a process to all others, to compare them.
  def placed(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    if not getattr(array, "is_fully_addressable", True):
      return jax.device_put(array, sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

  if processes.count() == 1:
    return jax.device_put(tree, shardings)
  return jax.tree.map(placed, tree, shardings)


def rows(sharding: jax.sharding.Sharding, batch_size: int) -> Any:
  """Returns the rows of a batch that the devices of this process compute.

  Args:
    sharding: That of a batch, whose first axis is its rows.
    batch_size: B.

  Returns:
    An index of the rows, in order.
  """
  if processes.count() == 1:
    return slice(None)
  parts = sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique([np.arange(batch_size)[part] for part in parts])


def put(
    batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding
) -> dict[str, jax.Array]:
  """Makes a batch of all processes from the rows that `rows` names in each of them."""
  if processes.count() == 1:
    return jax.device_put(dict(batch), sharding)
  return {name: jax.make_array_from_process_local_data(sharding, x)
          for name, x in batch.items()}
