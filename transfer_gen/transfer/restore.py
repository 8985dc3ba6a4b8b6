"""Rows x sources -> params, each leaf straight into its sharding."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Protocol
import zlib

import jax
from jax import numpy as jnp

from transfer_gen import tree
from transfer_gen.transfer import axes
from transfer_gen.transfer import resolve

_Shardings = Mapping[str, jax.sharding.Sharding]
_FILL = {"zeros": jnp.zeros, "ones": jnp.ones}


class Source(Protocol):
  """A checkpoint seen under our names."""
  specs: Mapping[str, tree.Spec]

  def read(self, names: Sequence[str], shardings: _Shardings | None = None):
    """Yields (name, array) for each name, in bounded batches."""


def restore(
    rows: Sequence[resolve.Row],
    sources: Mapping[str, Source],
    fresh: Callable[[Sequence[str]], Mapping[str, jax.Array]],
    shardings: _Shardings | None = None,
    key: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Fills the target's params.

  Reads the source leaves that rows name, each once, and no other.

  Args:
    rows: From `resolve`.
    sources: Checkpoints by their name in the plan.
    fresh: Makes the model's own initial values of the leaves it is given.
    shardings: Where each target leaf lives. None: on the default device.
    key: Draws the entries that an axis map starts fresh. None: key 0.

  Returns:
    Arrays by name, sorted.
  """
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {row.name: device for row in rows}
  key = jax.random.key(0) if key is None else key
  params = dict(fresh([row.name for row in rows if row.how == "init"]))
  for row in rows:
    if row.how in _FILL:
      params[row.name] = _FILL[row.how](
          row.spec.shape, row.spec.dtype, device=shardings[row.name])
  for checkpoint, source in sources.items():
    mine = [row for row in rows if row.source and row.checkpoint == checkpoint]
    params.update(_read(mine, source, shardings, key))
  assert params.keys() == {row.name for row in rows}
  return dict(sorted(params.items()))


def _read(rows, source, shardings, key):
  """Reads each source leaf once and makes the rows that want it."""
  readers = {}
  for row in rows:
    readers.setdefault(row.source, []).append(row)
  where = {name: _source_sharding(wanting[0], shardings[wanting[0].name])
           for name, wanting in readers.items()}
  for name, value in source.read(list(readers), where):
    for row in readers[name]:
      yield row.name, _value(row, value, shardings[row.name], key)


def _source_sharding(row: resolve.Row, sharding: jax.sharding.Sharding):
  """The target's sharding, but whole along the axes whose size changes."""
  if not row.changes or not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  parts = list(sharding.spec) + [None] * (len(row.spec.shape) - len(sharding.spec))
  for change in row.changes:
    parts[change.dim] = None
  return jax.sharding.NamedSharding(
      sharding.mesh, jax.sharding.PartitionSpec(*parts))


def _value(
    row: resolve.Row, value: jax.Array, sharding: jax.sharding.Sharding,
    key: jax.Array
) -> jax.Array:
  leaf_key = jax.random.fold_in(key, zlib.crc32(row.name.encode()))
  for change in row.changes:
    apply = _apply(change.dim, change.binding.fresh, sharding)
    value = apply(
        value, jnp.asarray(change.binding.index),
        key=jax.random.fold_in(leaf_key, change.dim))
  value = value.astype(row.spec.dtype)
  return jax.device_put(value, sharding)


@functools.lru_cache(maxsize=64)
def _apply(dim: int, fresh: str, sharding: jax.sharding.Sharding):
  return jax.jit(
      functools.partial(axes.apply, dim=dim, fresh=fresh), out_shardings=sharding)
