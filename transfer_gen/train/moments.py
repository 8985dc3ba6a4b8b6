"""Optimiser moments that go on from a source's, where a whole group can.

The moments of a group share one count, which corrects their bias (Kingma and Ba, 2015,
section 3). So a group takes all of the source's moments and their count, or starts
fresh; the count of its schedule always starts at zero.
"""

from collections.abc import Mapping, Sequence
import dataclasses
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
  """Marks the rows of groups that start with a source's moments.

  Those are the groups that learn from the first step, and whose leaves are all
  copied as they are from one group of one source, with slots of the same kind.

  Args:
    rows: Of `resolve`.
    optimizer: The target's.
    sources: Checkpoints by name.
    wanted: Names of those whose moments are asked for.

  Raises:
    errors.UserError: If one is asked for and no group can take its moments; says
      why, group by group.
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
  for name in sorted(wanted):
    if not any(row.moments and row.checkpoint == name for row in marked):
      told = "; ".join(f"group {group!r}: {why}" for group, why in reasons.items())
      raise errors.UserError(
          f"source{f's[{name!r}]' if name else ''}.moments is set, and no group can"
          f" take the moments of {sources[name].path}. {told}.")
  return marked


def restore(
    rows: Sequence[resolve.Row],
    optimizer: optim_lib.Optimizer,
    sources: Mapping[str, sources_lib.Source],
    state: optim_lib.State,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> optim_lib.State:
  """Puts the source's moments into a fresh state, in the groups that `mark` marked.

  Args:
    rows: Of `mark`.
    optimizer: The target's.
    sources: Checkpoints by name.
    state: Of `optimizer.extend` at the first step.
    shardings: Of the params; moments live where theirs does.
  """
  state = dict(state)
  for group in {row.group: None for row in rows if row.moments}:
    mine = {row.name: row for row in rows if row.group == group}
    source = sources[next(iter(mine.values())).checkpoint]
    paths = _paths(source, state[group], mine)
    where = {path: shardings[path[-1]] for path in paths if path[-1] in mine}
    found = source.moments.read(
        {paths[path]: where.get(path) for path in paths})
    state[group] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: found.get(paths.get(_keys(path)), leaf), state[group])  # pylint: disable=cell-var-from-loop
  return state


def _why_not(group, rows, optimizer, sources, wanted) -> str | None:
  mine = {row.name: row for row in rows if row.group == group}
  other = next((row for row in mine.values() if row.how != "copy"), None)
  names = {row.checkpoint for row in mine.values()}
  if other is not None:
    return f"{other.name} is no plain copy ({other.how})"
  if len(names) > 1 or not names <= wanted:
    return f"its leaves are from {', '.join(map(repr, sorted(names)))}"
  if part := next((name for name in mine if name in optimizer.tables), None):
    return f"it trains some rows of {part} alone"
  if optimizer.starts[group]:
    return f"it starts to learn at step {optimizer.starts[group]}"
  source = sources[names.pop()]
  if source.moments is None:
    return ("the checkpoint holds no optimiser state, as those in best/ do not; set"
            " source.step to one that does")
  shapes = {name: jax.ShapeDtypeStruct(row.spec.shape, row.spec.dtype)
            for name, row in mine.items()}
  slots = jax.eval_shape(optimizer.txs[group].init, shapes)
  paths = _paths(source, slots, mine)
  if not paths:
    return "its optimiser keeps no moments, or the source's leaves did not learn alike"
  leaves = {_keys(p): x for p, x in jax.tree_util.tree_flatten_with_path(slots)[0]}
  for path, theirs in paths.items():
    if theirs not in source.moments.shapes or tuple(
        source.moments.shapes[theirs].shape) != leaves[path].shape:
      return f"the source's optimiser has no {'/'.join(map(str, path))} of its shape"
  return None


def _paths(source, slots, mine: Mapping[str, resolve.Row]) -> dict[_Path, _Path]:
  """Where in the source's state each slot of a group is, by its place in the group's.

  The parts of a chain that hold something for each leaf move whole.
  """
  groups = {path[0] for path in source.moments.shapes
            if path[-1] in {row.sources[0] for row in mine.values()}}
  if len(groups) != 1:
    return {}
  (theirs,) = groups
  paths = [_keys(p) for p, _ in jax.tree_util.tree_flatten_with_path(slots)[0]]
  parts = {path[0] for path in paths if path[-1] in mine}
  return {path: (theirs, *path[:-1],
                 mine[path[-1]].sources[0] if path[-1] in mine else path[-1])
          for path in paths if path[0] in parts}


def _keys(path) -> _Path:
  """Keys, fields and indices of a path, plain."""
  return tuple(
      getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))
      for entry in path)
