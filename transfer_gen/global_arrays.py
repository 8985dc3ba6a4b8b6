"""Arrays that lie on the devices of several processes; in a single one, plain arrays.

Axes: B rows of a batch, over all processes.
"""

from collections.abc import Collection, Mapping, Sequence
import functools
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.experimental import multihost_utils
import numpy as np

from transfer_gen import processes
from transfer_gen import sharding as sharding_lib


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


def fitting(
    sharding: jax.sharding.Sharding, shape: Sequence[int], dims: Collection[int]
) -> jax.sharding.Sharding:
  """Returns a sharding for a shape that differs in some dimensions.

  It is the given one, if that divides them, or else one that is whole along them, see
  `spread`.
  """
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  parts = sharding_lib.axes_of(sharding, len(shape))
  divides = all(shape[dim] % math.prod(
      sharding.mesh.shape[axis] for axis in parts[dim]) == 0 for dim in dims)
  return sharding if divides else spread(sharding, shape, dims)


def spread(
    sharding: jax.sharding.Sharding, shape: Sequence[int], dims: Collection[int]
) -> jax.sharding.Sharding:
  """Returns a sharding that is whole along some dimensions.

  What divided them divides other dimensions, where it can, so that each device still
  holds a part alone.
  """
  if not dims or not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  parts = sharding_lib.axes_of(sharding, len(shape))
  free = [axis for dim in dims for axis in parts[dim]]
  parts = [() if dim in dims else axes for dim, axes in enumerate(parts)]
  others = sorted(set(range(len(shape))) - set(dims), key=lambda dim: -shape[dim])
  for axis in free:
    for dim in others:
      wider = (*parts[dim], axis)
      if shape[dim] % math.prod(sharding.mesh.shape[name] for name in wider) == 0:
        parts[dim] = wider
        break
  return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*parts))


def take(
    array: jax.Array, pick: Mapping[int, np.ndarray], sharding: Any = None
) -> jax.Array:
  """Takes entries along some dimensions, and zeros for entry -1.

  >>> import jax.numpy as jnp
  >>> take(jnp.array([[1, 2], [3, 4]]), {0: np.array([1, -1, 1])}).tolist()
  [[3, 4], [0, 0], [3, 4]]

  Args:
    array: The array.
    pick: Entries by dimension.
    sharding: Where the result is placed. If None, where JAX puts it.
  """
  if sharding is not None:
    # Of an array that is divided along the dimension, XLA would add parts that are zero
    # elsewhere, and -0.0 would become 0.0.
    array = jax.device_put(array, spread(sharding, array.shape, pick))
  return _taking(tuple(pick), sharding)(array, [jnp.asarray(x) for x in pick.values()])


@functools.lru_cache(maxsize=64)
def _taking(dims: tuple[int, ...], sharding: Any) -> Any:
  def run(array: jax.Array, picks: list[jax.Array]) -> jax.Array:
    for dim, index in zip(dims, picks):
      missing = jnp.expand_dims(index < 0, [d for d in range(array.ndim) if d != dim])
      array = jnp.take(array, jnp.maximum(index, 0), axis=dim)
      array = jnp.where(missing, jnp.zeros((), array.dtype), array)
    return array
  return jax.jit(run, out_shardings=sharding)


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
