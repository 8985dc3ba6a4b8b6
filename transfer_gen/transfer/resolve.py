"""Plan x source specs x target specs -> one row a target leaf. Reads no array."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import completeness
from transfer_gen.transfer import fold
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

TARGET = "target"  # The target's key among the vocabularies and constants.
_TABLES = ("vocab", "position", "buckets")  # Axes whose entries are rows of a table.
_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Change:
  """An axis map at work on one dimension of one leaf.

  Attributes:
    dim: The dimension.
    reads: Whether the leaf contracts it.
    binding: What happens to its entries.
  """
  dim: int
  reads: bool
  binding: plan_lib.Binding


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """The part of a leaf that learns, where it is not the whole.

  Attributes:
    dim: The dimension of the table's rows: 0 of an embedding, 1 of an output kernel.
    index: i32[R], which of them learn, rising.
  """
  dim: int
  index: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
  """What happens to one leaf of the target.

  Attributes:
    name: The leaf.
    spec: Its spec.
    how: "copy", "mean" (of several leaves), "mapped" (some axis changes, of one
      leaf or of the mean of several), "init", "zeros" or "ones".
    rule: Index of the rule that owns it.
    group: Name of the group that owns it.
    unfreeze_step: First step at which it learns; None: never.
    sources: Names of the source leaves; none where nothing is read.
    source_spec: Their common spec.
    checkpoint: Which source.
    changes: The axis maps, in the order of the dimensions.
    moments: Whether it starts with the source's optimiser moments.
    table: Which part of it learns; None: the whole.
  """
  name: str
  spec: tree.Spec
  how: str
  rule: int
  group: str
  unfreeze_step: int | None
  sources: tuple[str, ...] = ()
  source_spec: tree.Spec | None = None
  checkpoint: str = ""
  changes: tuple[Change, ...] = ()
  moments: bool = False
  table: Table | None = None

  @property
  def learning(self) -> int:
    """How many of its params ever learn."""
    if self.unfreeze_step is None:
      return 0
    if self.table is None:
      return self.spec.size
    return self.spec.size // self.spec.shape[self.table.dim] * len(self.table.index)


class PlanError(errors.UserError):
  """A plan that does not fit its source and target: every misfit at once."""


class _Misfit(Exception):
  """Why one leaf has no row."""


def resolve(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    target: _Specs,
    vocabularies: Mapping[str, vocabulary.Vocabulary] | None = None,
    constants: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
  """Decides what reaches each leaf of the target, and what learns.

  Args:
    plan: The plan.
    sources: Specs of each checkpoint by its name in the plan ("" for the only one).
    target: Specs of the target's params.
    vocabularies: Tokens by checkpoint name, and the target's under `TARGET`.
    constants: What the models compute beside their params, likewise.

  Returns:
    One row a target leaf, in the target's order.

  Raises:
    PlanError: If a leaf has no rule, group or fitting source; if a rule, axis map
      or group owns no leaf; if a source leaf is neither read nor listed in
      `unused_source`.
  """
  if causes := completeness.mistakes(plan, sources, target):
    raise _error(causes)
  bind = _Binder(plan, vocabularies or {}, constants or {})
  owners = completeness.Owners(plan, target)
  rows, misfits = [], {}  # misfits: {cause: leaves that it hits}.
  for name, spec in target.items():
    try:
      rows.append(_row(plan, sources, name, spec, owners, bind))
    except _Misfit as misfit:
      misfits.setdefault(str(misfit), []).append(name)
  lines = [f"{names}: {cause}" for _, (names, cause) in fold.fold(
      [(_shown(names), cause) for cause, names in misfits.items()], linked=2)]
  told = " ".join(f"{', '.join(names)}: {cause}" for cause, names in misfits.items())
  lines += completeness.idle(plan, target, owners, rows)
  lines += completeness.unread(plan, sources, rows, told)
  lines += completeness.torn_heads(rows)
  if lines:
    raise _error(lines)
  return rows


def _error(lines: Sequence[str]) -> PlanError:
  noun = "misfit" if len(lines) == 1 else "misfits"
  return PlanError("\n  ".join([f"Plan does not fit ({len(lines)} {noun}):", *lines]))


def _shown(names: Sequence[str]) -> str:
  """Leaves that one cause hits; a cause says more than a long list of them."""
  folded = tree.fold(names)
  if not folded[3:]:
    return ", ".join(folded)
  first, last = (name.split("/") for name in (min(names), max(names)))
  common = "/".join(a for a, b in itertools.takewhile(
      lambda pair: pair[0] == pair[1], zip(first, last)))
  if common:
    return f"{common}/... ({len(names)} leaves)"
  return f"{', '.join(folded[:3])} and {len(folded) - 3} more"


def _row(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    name: str,
    spec: tree.Spec,
    owners: completeness.Owners,
    bind: "_Binder",
) -> Row:
  if name not in owners.rule:
    raise _Misfit(
        f"{_size(spec)} has no rule. Add one; source=None starts the leaf fresh.")
  if name not in owners.group:
    raise _Misfit(
        f"{_size(spec)} has no group. Add one; unfreeze_step=None freezes it.")
  index, found = owners.rule[name]
  rule, group = plan.rules[index], plan.groups[owners.group[name]]
  row = Row(name=name, spec=spec, how=rule.fresh, rule=index, group=group.name,
            unfreeze_step=group.unfreeze_step)
  if rule.source is None:
    return dataclasses.replace(row, table=_table(group, row))
  names = tuple(_expand(template, found, index) for template in rule.sources)
  source_spec = _source_spec(index, names, sources[rule.checkpoint])
  changes = _changes(plan, rule, names[0], source_spec, name, spec, bind)
  how = "mapped" if changes else "copy" if len(set(names)) == 1 else "mean"
  row = dataclasses.replace(
      row, how=how, sources=names, source_spec=source_spec,
      checkpoint=rule.checkpoint, changes=changes)
  return dataclasses.replace(row, table=_table(group, row))


def _table(group: plan_lib.Group, row: Row) -> Table | None:
  """The rows of a leaf that its group says learn."""
  if group.table_rows is None:
    return None
  dim = next((d for d, axis in enumerate(row.spec.axes) if axis in _TABLES), None)
  if dim is None:
    raise _Misfit(
        f"group {group.name!r} has table_rows, and {_size(row.spec)} is no table: it"
        f" has none of the axes {', '.join(_TABLES)}. Narrow the group's params.")
  size = row.spec.shape[dim]
  if group.table_rows != plan_lib.FRESH_ROWS:
    if group.table_rows[-1] >= size:
      raise _Misfit(
          f"group {group.name!r} has row {group.table_rows[-1]} in table_rows, and"
          f" axis `{row.spec.axes[dim]}` is {size} here.")
    return Table(dim=dim, index=np.asarray(group.table_rows, np.int32))
  if not row.sources:
    return Table(dim=dim, index=np.arange(size, dtype=np.int32))
  fresh = [np.flatnonzero(c.binding.index < 0) for c in row.changes if c.dim == dim]
  if not fresh or not fresh[0].size:
    raise _Misfit(
        f"group {group.name!r} has table_rows={plan_lib.FRESH_ROWS!r}, and every row"
        " here is a copy of the source's. Name the rows that shall learn, or freeze"
        " the leaf.")
  return Table(dim=dim, index=fresh[0].astype(np.int32))


def _expand(template: str, found: re.Match, index: int) -> str:
  try:
    return found.expand(template)
  except (re.error, IndexError) as error:
    raise _Misfit(
        f"rule {index}: source {template!r} does not go with its target"
        f" {found.re.pattern!r}: {error}.") from error


def _source_spec(index: int, names: Sequence[str], specs: _Specs) -> tree.Spec:
  for name in names:
    if name not in specs:
      raise _Misfit(f"rule {index} reads {_missing(name, specs)}")
  first = specs[names[0]]
  for name in names[1:]:
    if specs[name] != first:
      raise _Misfit(
          f"rule {index} reads the mean of {names[0]} {_size(first)} and {name}"
          f" {_size(specs[name])}; a mean needs leaves of one shape.")
  return first


def _missing(name: str, specs: _Specs) -> str:
  """What is not in the checkpoint: a leaf, or the whole layer that it is of."""
  parts = name.split("/")
  for depth in range(1, len(parts) + 1):
    start = "/".join(parts[:depth])
    there = dict.fromkeys("/".join(n.split("/")[:depth]) for n in specs)
    alike = [other for other in there if other != start
             and len(tree.fold([other, start])) == 1]
    if start not in there and alike:
      rest = "/..." if depth < len(parts) else ""
      return (f"{start}{rest}, not in the checkpoint, which has"
              f" {', '.join(tree.fold(alike))} alone.")
    if start not in there:
      break
  return f"{name}, not in the checkpoint; {completeness.nearest(name, specs)}"


def _changes(
    plan: plan_lib.TransferPlan,
    rule: plan_lib.Rule,
    source_name: str,
    source: tree.Spec,
    name: str,
    target: tree.Spec,
    bind: "_Binder",
) -> tuple[Change, ...]:
  if source.axes != target.axes:
    raise _Misfit(
        f"axes {_axes(source)} in {source_name} and {_axes(target)} here. A rule"
        " must relate leaves of the same axes.")
  changes = []
  for dim, axis in enumerate(target.axes):
    sizes = source.shape[dim], target.shape[dim]
    on = completeness.acting(plan, axis, name)
    if on is None:
      if sizes[0] != sizes[1]:
        raise _Misfit(
            f"axis `{axis}` is {sizes[0]} in the source and {sizes[1]} here, and no axis"
            f" map says how. Add On(axis={axis!r}, map=...), or a rule with"
            " source=None.")
      continue
    binding = bind(on, rule.checkpoint, name, *sizes)
    if (sizes[0] != sizes[1] or binding.mixture is not None
        or (binding.index != np.arange(sizes[1])).any()):
      changes.append(Change(dim=dim, reads=target.reads[dim], binding=binding))
  return tuple(changes)


class _Binder:
  """Binds each axis map once for all leaves; they must agree on its sizes."""

  def __init__(
      self, plan: plan_lib.TransferPlan,
      vocabularies: Mapping[str, vocabulary.Vocabulary],
      constants: Mapping[str, Mapping[str, Any]]):
    self._plan, self._vocabularies, self._constants = plan, vocabularies, constants
    self._bound: dict[Any, tuple[str, tuple[int, int], Any]] = {}

  def __call__(
      self, on: int, checkpoint: str, name: str, source: int, target: int
  ) -> plan_lib.Binding:
    axis = self._plan.axes[on].axis
    if (on, checkpoint) not in self._bound:
      self._bound[on, checkpoint] = (
          name, (source, target), self._bind(on, checkpoint, source, target))
    first, sizes, binding = self._bound[on, checkpoint]
    if sizes != (source, target):
      raise _Misfit(
          f"axis `{axis}` goes from {source} to {target} here and from {sizes[0]} to"
          f" {sizes[1]} in {first}, under one axis map, {on}. Give each its own On"
          " with params=.")
    if isinstance(binding, str):
      raise _Misfit(f"axis `{axis}`: {binding}.")
    return binding

  def _bind(self, on, checkpoint, source, target) -> plan_lib.Binding | str:
    """The binding, or why there is none."""
    try:
      return self._plan.axes[on].map.bind(plan_lib.AxisSizes(
          axis=self._plan.axes[on].axis, source=source, target=target,
          source_vocabulary=self._vocabularies.get(checkpoint),
          target_vocabulary=self._vocabularies.get(TARGET),
          source_constants=self._constants.get(checkpoint, {}),
          target_constants=self._constants.get(TARGET, {})))
    except ValueError as error:
      return str(error)


def _size(spec: tree.Spec) -> str:
  return f"{_axes(spec)} {spec.shape}"


def _axes(spec: tree.Spec) -> str:
  return f"({', '.join(spec.axes)})"
