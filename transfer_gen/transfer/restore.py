"""Rows x sources -> params, each leaf straight into its sharding."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Protocol
import zlib

import jax
from jax import numpy as jnp

from transfer_gen import tree
from transfer_gen.transfer import entries
from transfer_gen.transfer import plan as plan_lib
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
    progress: Callable[[int], object] = lambda num_bytes: None,
) -> dict[str, jax.Array]:
  """Fills the target's params.

  Reads the source leaves that rows name, each once, and no other.

  Args:
    rows: From `resolve`.
    sources: Checkpoints by their name in the plan.
    fresh: Makes the model's own initial values of the leaves it is given.
    shardings: Where each target leaf lives. None: on the default device.
    key: Draws the entries that an axis map starts fresh. None: key 0.
    progress: Called with the bytes of each source leaf that was read.

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
    mine = [row for row in rows if row.sources and row.checkpoint == checkpoint]
    params.update(_read(mine, source, shardings, key, fresh, progress))
  assert params.keys() == {row.name for row in rows}
  return dict(sorted(params.items()))


def _read(rows, source, shardings, key, fresh, progress):
  """Reads each source leaf once and makes the rows that want it.

  A leaf is kept while a row waits for others, as the mean of two layers does.
  """
  waiting = {}
  for row in rows:
    for name in row.sources:
      waiting.setdefault(name, []).append(row)
  # The largest first: what passes while they are mapped fits where the rest comes.
  waiting = dict(sorted(waiting.items(), key=lambda item: -source.specs[item[0]].nbytes))
  where = {name: _source_sharding(wanting[0], shardings[wanting[0].name])
           for name, wanting in waiting.items()}
  held, done = {}, set()
  for name, value in source.read(list(waiting), where):
    held[name] = value
    progress(value.nbytes)
    for row in waiting[name]:
      if row.name not in done and all(n in held for n in row.sources):
        done.add(row.name)
        yield row.name, _value(row, held, shardings[row.name], key, fresh)
    for n in [n for n in held if all(row.name in done for row in waiting[n])]:
      del held[n]


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
    row: resolve.Row, held: Mapping[str, jax.Array],
    sharding: jax.sharding.Sharding, key: jax.Array, fresh
) -> jax.Array:
  value = held[row.sources[0]]
  if row.sources[1:]:
    value = _mean([jax.device_put(held[name], value.sharding) for name in row.sources])
  if row.changes:
    leaf_key = jax.random.fold_in(key, zlib.crc32(row.name.encode()))
    bindings = [change.binding for change in row.changes]
    init = None
    if any(binding.fresh == "init" for binding in bindings):
      init = fresh([row.name])[row.name]
    how = tuple((c.dim, c.reads, c.binding.fresh, c.binding.noise) for c in row.changes)
    arrays = [(b.index, b.mixture and (b.mixture.rows, b.mixture.index, b.mixture.weights),
               b.share)
              for b in bindings]
    value = _mapped(how, sharding)(value, arrays, leaf_key, init)
  return jax.device_put(value.astype(row.spec.dtype), sharding)


_mean = jax.jit(lambda values: sum(values[1:], values[0]) / len(values))


@functools.lru_cache(maxsize=64)
def _mapped(how, sharding: jax.sharding.Sharding):
  """The changes of a leaf as one program; their arrays are its arguments."""
  def run(value, arrays, key, init):
    bindings = [plan_lib.Binding(
        index=index, fresh=fresh, note="", noise=noise, share=share,
        mixture=mixture and plan_lib.Mixture(
            rows=mixture[0], index=mixture[1], weights=mixture[2]))
                for (_, _, fresh, noise), (index, mixture, share) in zip(how, arrays)]
    for (dim, reads, _, _), binding in zip(how, bindings):
      value = entries.apply(value, binding, dim, reads, jax.random.fold_in(key, dim))
    for (dim, _, fresh, _), binding in zip(how, bindings):
      if fresh == "init":
        value = entries.settle(value, binding, dim, init)
    return value
  return jax.jit(run, out_shardings=sharding)
