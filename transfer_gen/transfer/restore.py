"""Fills params from rows and sources; each leaf goes straight into its sharding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
from typing import Any, Protocol
import zlib

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import tree
from transfer_gen.transfer import entries
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import source_reading

_Shardings = Mapping[str, jax.sharding.Sharding]
_Picks = Mapping[str, Mapping[int, np.ndarray]]
_Fresh = Callable[[Sequence[str]], Mapping[str, jax.Array]]
_FILL = {"zeros": jnp.zeros, "ones": jnp.ones}


class Source(Protocol):
  """A checkpoint whose leaves have the names and axes that plans use."""

  @property
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of each leaf, by name."""
    ...

  def read(
      self, names: Sequence[str], shardings: _Shardings | None = None,
      picks: _Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) for each name, in bounded batches.

    Args:
      names: Leaves of `specs`.
      shardings: Where each leaf is placed. If None, on the default device.
      picks: For some dimensions of some leaves, i32[N]: which entry of the leaf each of
        N entries of the array is; -1 means zeros. By default a leaf is read as it is.
    """
    ...


def restore(
    rows: Sequence[resolve.Row],
    sources: Mapping[str, Source],
    fresh: _Fresh,
    shardings: _Shardings | None = None,
    key: jax.Array | None = None,
    progress: Callable[[int], object] = lambda num_bytes: None,
) -> dict[str, jax.Array]:
  """Returns the target's params; reads each source leaf that rows name once.

  >>> import numpy as np
  >>> from transfer_gen.transfer import plan, resolve
  >>> class Old:  # Any object with specs and read.
  ...   specs = tree.specs({"w": jnp.ones(2)}, {"w": ("mlp",)})
  ...   def read(self, names, shardings=None, picks=None):
  ...     yield from ((name, jnp.array([3.0, 4.0])) for name in names)
  >>> target = tree.specs({"w": jnp.ones(2), "b": jnp.ones(1)}, {".": ("mlp",)})
  >>> rows = resolve.resolve(plan.TransferPlan(
  ...     rules=(plan.Rule(target="w", source="w"),
  ...            plan.Rule(target="b", source=None, fresh="zeros")),
  ...     groups=plan.SCRATCH.groups), {"": Old.specs}, target)
  >>> params = restore(rows, {"": Old()}, fresh=lambda names: {})
  >>> {name: value.tolist() for name, value in params.items()}
  {'b': [0.0], 'w': [3.0, 4.0]}

  Args:
    rows: Rows that `resolve` returned.
    sources: Checkpoints by their name in the plan.
    fresh: Returns the model's own initial values of the named leaves.
    shardings: Where each target leaf lives. If None, on the default device.
    key: Key for the entries that an axis map starts fresh. If None, key 0.
    progress: Called with the number of bytes of each source leaf that was read.

  Returns:
    Arrays by name, sorted by name.
  """
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = {row.name: device for row in rows}
  key = jax.random.key(0) if key is None else key
  # In one call, so that the model is initialized once for all fresh leaves.
  params = dict(fresh([row.name for row in rows if row.how == "init"]))
  for row in rows:
    if row.how in _FILL:
      params[row.name] = _FILL[row.how](
          row.spec.shape, row.spec.dtype, device=shardings[row.name])
  for checkpoint, source in sources.items():
    mine = [row for row in rows if row.sources and row.checkpoint == checkpoint]
    params.update(_read(mine, source, shardings, key, fresh, progress))
  # Sorted, as JAX sorts the keys of a dict: any order of rules gives the same tree.
  assert params.keys() == {row.name for row in rows}
  return dict(sorted(params.items()))


def _read(
    rows: Sequence[resolve.Row], source: Source, shardings: _Shardings, key: jax.Array,
    fresh: _Fresh, progress: Callable[[int], object],
) -> Iterator[tuple[str, jax.Array]]:
  """Yields the params of rows, reading each source leaf once.

  A source leaf is held while a row still waits for others, as a mean of layers does.
  """
  waiting = _by_source(rows, source)
  # If several rows want a leaf, it is read to where the first one needs it.
  readings = {
      name: source_reading.decide(wanting, shardings[wanting[0].name],
                           source.specs[name].shape)
      for name, wanting in waiting.items()}
  where = {name: one.sharding for name, one in readings.items()}
  picks = {name: one.pick for name, one in readings.items() if one.pick}
  held: dict[str, jax.Array] = {}
  done: set[str] = set()
  for name, value in source.read(list(waiting), where, picks):
    held[name] = value
    progress(value.nbytes)
    for row in waiting[name]:
      if row.name not in done and all(n in held for n in row.sources):
        done.add(row.name)
        param = _value(
            row, held, readings[row.sources[0]], shardings[row.name], key, fresh)
        # A step donates its params, so no two of them may be one array.
        yield row.name, jax.device_put(
            param, shardings[row.name], may_alias=len(waiting[name]) == 1)
    for n in [n for n in held if all(row.name in done for row in waiting[n])]:
      del held[n]


def _by_source(
    rows: Sequence[resolve.Row], source: Source) -> dict[str, list[resolve.Row]]:
  """Groups rows by the source leaves that they read, in the order of reading."""
  found: dict[str, list[resolve.Row]] = {}
  for row in rows:
    for name in row.sources:
      found.setdefault(name, []).append(row)
  # The largest first: mapping a leaf takes memory beside it, which is free while
  # little is loaded, and which later leaves then use.
  return dict(sorted(found.items(), key=lambda item: -source.specs[item[0]].nbytes))


def _value(
    row: resolve.Row, held: Mapping[str, jax.Array], how: source_reading.Reading,
    sharding: jax.sharding.Sharding, key: jax.Array, fresh: _Fresh
) -> jax.Array:
  value = held[row.sources[0]]
  if row.sources[1:]:
    # They may have been read with the shardings of other rows.
    value = _mean([jax.device_put(held[name], value.sharding) for name in row.sources])
  if how.together is not None:
    value = how.together(value)
  if row.changes:
    # A key by name, so that a leaf draws the same in any plan and order. crc32, because
    # Python's own hash of a text differs between processes.
    leaf_key = jax.random.fold_in(key, zlib.crc32(row.name.encode()))
    bindings = [change.binding for change in row.changes]
    drawn = any(binding.fresh == "init" for binding in bindings)
    init = fresh([row.name])[row.name] if drawn else None
    changes = tuple(
        (c.dim, c.reads, c.binding.fresh, c.binding.noise) for c in row.changes)
    arrays = [
        (b.index,
         b.mixture and (b.mixture.rows, b.mixture.index, b.mixture.weights), b.share)
        for b in bindings]
    value = _mapped(changes, how.taken, sharding)(value, arrays, leaf_key, init)
  return value.astype(row.spec.dtype)


_mean = jax.jit(lambda values: sum(values[1:], values[0]) / len(values))


@functools.lru_cache(maxsize=64)
def _mapped(
    changes: tuple[tuple[int, bool, str, float], ...], taken: bool,
    sharding: jax.sharding.Sharding
) -> Callable[..., jax.Array]:
  """Returns the changes of a leaf as one program; their arrays are its arguments.

  Leaves of one shape, as of all layers, then share one compiled program.
  """
  def run(value: jax.Array, arrays: Any, key: jax.Array, init: Any) -> jax.Array:
    # Notes and origins stay outside: each text would compile a program of its own.
    bindings = [plan_lib.Binding(
        index=index, fresh=fresh, note="", noise=noise, share=share,
        mixture=mixture and plan_lib.Mixture(
            rows=mixture[0], index=mixture[1], weights=mixture[2]))
                for (_, _, fresh, noise), (index, mixture, share) in zip(
                    changes, arrays)]
    for (dim, reads, _, _), binding in zip(changes, bindings):
      if taken:
        value = entries.share(value, binding, dim, reads)
      else:
        value = entries.apply(
            value, binding, dim, reads, jax.random.fold_in(key, dim))
    # Only after all dimensions have the target's size, which initial values have.
    for (dim, _, fresh, _), binding in zip(changes, bindings):
      if fresh == "init":
        value = entries.settle(value, binding, dim, init)
    return value
  return jax.jit(run, out_shardings=sharding)
