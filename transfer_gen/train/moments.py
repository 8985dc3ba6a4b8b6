"""Optimizer moments transferred from a source, for groups as a whole.

All moments of a group share one count, which corrects their bias (Kingma and Ba, 2015,
section 3). Therefore a group takes either all moments from the source, together with
their count, or starts fresh. The count of its schedule always starts at zero.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax

from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import resolve

_Path = tuple[Any, ...]


def mark(
    rows: Sequence[resolve.Row],
    optimizer: optim_lib.Optimizer,
    sources: Mapping[str, sources_lib.Source],
    wanted: frozenset[str],
) -> list[resolve.Row]:
  """Marks the rows of the groups that start with a source's moments.

  A group can do so if it learns from the first step, and if all its leaves are plain
  copies from one group of one source whose optimizer has slots of the same kind.

  Args:
    rows: Rows as `resolve.resolve` returns them.
    optimizer: Optimizer of the target.
    sources: Sources, by name.
    wanted: Names of the sources whose moments are to be transferred.

  Returns:
    The rows, with `moments` set.

  Raises:
    errors.UserError: If no group can take the moments of a wanted source; the message
      gives the reason for each group.
  """
  if not wanted:
    return list(rows)
  moved, reasons = set(), {}
  for group in optimizer.members:
    why = _why_not(group, rows, optimizer, sources, wanted)
    if why:
      reasons[group] = why
    else:
      moved.add(group)
  marked = [dataclasses.replace(row, moments=row.group in moved) for row in rows]
  # A source may serve only some of its groups; that it serves none is an error.
  for name in sorted(wanted):
    if not any(row.moments and row.checkpoint == name for row in marked):
      details = "; ".join(f"group {group!r}: {why}" for group, why in reasons.items())
      raise errors.UserError(
          f"source{f's[{name!r}]' if name else ''}.moments is set, but no group can"
          f" take the moments of {sources[name].path}. {details}.")
  return marked


def restore(
    rows: Sequence[resolve.Row],
    optimizer: optim_lib.Optimizer,
    sources: Mapping[str, sources_lib.Source],
    state: optim_lib.State,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> optim_lib.State:
  """Fills a fresh state with the source's moments, in the groups that `mark` marked.

  Args:
    rows: Rows as `mark` returns them.
    optimizer: Optimizer of the target.
    sources: Sources, by name.
    state: The state that `optimizer.extend` returned for the first step.
    shardings: Shardings of the params, by name; a moment is placed like its param.

  Returns:
    The state with the moments of the marked groups replaced.
  """
  state, anywhere = dict(state), next(iter(shardings.values()))
  # Counts have no param of their own. Not on the default device, which may be one of
  # another process.
  if isinstance(anywhere, jax.sharding.NamedSharding):
    anywhere = jax.sharding.NamedSharding(
        anywhere.mesh, jax.sharding.PartitionSpec())
  for group in {row.group: None for row in rows if row.moments}:
    mine = {row.name: row for row in rows if row.group == group}
    source = sources[next(iter(mine.values())).checkpoint]
    assert source.moments is not None  # `mark` marks no row of other sources.
    paths = _paths(source, state[group], mine)
    # Params are flat dicts, so the last key in the path of a moment is a leaf's name.
    found = source.moments.read({
        paths[path]: shardings[path[-1]] if path[-1] in mine else anywhere
        for path in paths})
    leaves, structure = jax.tree_util.tree_flatten_with_path(state[group])
    state[group] = structure.unflatten(
        [found.get(paths.get(_keys(path), ()), leaf) for path, leaf in leaves])
  return state


def _why_not(group, rows, optimizer, sources, wanted) -> str | None:
  """Returns why a group cannot take a source's moments; None if it can."""
  mine = {row.name: row for row in rows if row.group == group}
  other = next((row for row in mine.values() if row.how != "copy"), None)
  names = {row.checkpoint for row in mine.values()}
  if other is not None:
    return f"{other.name} is not a plain copy ({other.how})"
  # Moments of two sources have two counts, and the group has one.
  if len(names) > 1 or not names <= wanted:
    return f"its leaves come from {', '.join(map(repr, sorted(names)))}"
  # The slots of such a table cover some of its rows, those of the source all.
  if part := next((name for name in mine if name in optimizer.tables), None):
    return f"only some rows of {part} learn"
  # `restore` fills the state of the first step; later groups are not in it yet.
  if optimizer.starts[group]:
    return f"it starts to learn at step {optimizer.starts[group]}"
  source = sources[names.pop()]
  if source.moments is None:
    return ("the checkpoint holds no optimizer state (those in best/ never do); set"
            " source.step to a checkpoint that does")
  shapes = {name: jax.ShapeDtypeStruct(row.spec.shape, row.spec.dtype)
            for name, row in mine.items()}
  # Only shapes are compared, so no slot is allocated for a group that may not qualify.
  slots = jax.eval_shape(functools.partial(optimizer.slots, group), shapes)
  paths = _paths(source, slots, mine)
  if not paths:
    return ("its optimizer keeps no moments, or its leaves were not in one group of the"
            " source")
  leaves = {_keys(p): x for p, x in jax.tree_util.tree_flatten_with_path(slots)[0]}
  for path, theirs in paths.items():
    if theirs not in source.moments.shapes or tuple(
        source.moments.shapes[theirs].shape) != leaves[path].shape:
      return (f"the source's optimizer has no {'/'.join(map(str, path))} of the same"
              " shape")
  return None


def _paths(source, slots, mine: Mapping[str, resolve.Row]) -> dict[_Path, _Path]:
  """Maps the path of each slot in a group's state to its path in the source's state.

  Only the elements of an `optax.chain` that keep something for each leaf are moved,
  but those as a whole, with their counts. A schedule's count is thereby left out.
  """
  groups = {path[0] for path in source.moments.shapes
            if path[-1] in {row.sources[0] for row in mine.values()}}
  if len(groups) != 1:
    return {}
  # The source may have called its group otherwise; it is known by its leaves.
  (theirs,) = groups
  paths = [_keys(p) for p, _ in jax.tree_util.tree_flatten_with_path(slots)[0]]
  # The first key of a path is the element's place in the chain.
  parts = {path[0] for path in paths if path[-1] in mine}
  return {path: (theirs, *path[:-1],
                 mine[path[-1]].sources[0] if path[-1] in mine else path[-1])
          for path in paths if path[0] in parts}


def _keys(path) -> _Path:
  """Returns the keys, field names and indices of a tree path as plain values."""
  return tuple(
      getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))
      for entry in path)
