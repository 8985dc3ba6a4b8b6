"""Resolves a plan against source and target specs into one row per target leaf.

No array is read here. Everything after it (restore, optimizer, report) reads rows.
"""

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

TARGET = vocabulary.TARGET
_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Change:
  """What an axis map does to one dimension of one leaf.

  Attributes:
    dim: The dimension.
    reads: Whether the leaf contracts the dimension.
    binding: What happens to its entries.
  """
  dim: int
  reads: bool
  binding: plan_lib.Binding


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """The rows of a table that learn, if not the whole leaf does.

  Attributes:
    dim: The dimension of the table's rows: 0 for an embedding, 1 for an output kernel.
    index: i32[R], the rows that learn, in rising order.
  """
  dim: int
  index: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
  """What happens to one leaf of the target.

  Attributes:
    name: Name of the leaf.
    spec: Spec of the leaf.
    how: "copy"; "mean" of several leaves; "mapped", if the size or order of some axis
      changes; or "init", "zeros" or "ones", if nothing is read.
    rule: Index of the rule that owns the leaf.
    group: Name of the group that owns the leaf.
    unfreeze_step: First step at which the leaf learns. None means never.
    sources: Names of the source leaves; empty if nothing is read.
    source_spec: The spec that the source leaves share; None if nothing is read.
    checkpoint: Name of the checkpoint that is read; "" means the only one.
    changes: What axis maps do, in the order of the dimensions.
    moments: Whether the leaf starts with the source's optimizer moments.
    table: The rows of the leaf that learn. None means all of it.
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
    """The number of params of the leaf that learn at some step."""
    if self.unfreeze_step is None:
      return 0
    if self.table is None:
      return self.spec.size
    return self.spec.size // self.spec.shape[self.table.dim] * len(self.table.index)


class PlanError(errors.UserError):
  """A plan that does not fit its source and target; the message lists every misfit."""


class _Misfit(Exception):
  """Why one leaf cannot have a row."""


def resolve(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    target: _Specs,
    vocabularies: Mapping[str, vocabulary.Vocabulary] | None = None,
    constants: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
  r"""Decides what reaches each leaf of the target, and what learns.

  >>> table = {"up": (("embed", "mlp"), ("embed",)), "b": ("mlp",)}
  >>> source = tree.specs({"up": np.ones((2, 4))}, table)
  >>> target = tree.specs({"up": np.ones((2, 4)), "b": np.ones(4)}, table)
  >>> rows = resolve(plan_lib.TransferPlan(
  ...     rules=(plan_lib.Rule(target="b", source=None, fresh="zeros"),
  ...            plan_lib.Rule(target="(.*)", source=r"\1")),
  ...     groups=(plan_lib.Group(name="all", params=".*"),)), {"": source}, target)
  >>> [(row.name, row.how, row.sources) for row in rows]
  [('b', 'zeros', ()), ('up', 'copy', ('up',))]

  Args:
    plan: The plan.
    sources: Specs of each checkpoint by its name in the plan; "" is the only one.
    target: Specs of the target's params.
    vocabularies: Tokens by checkpoint name, and the target's under `TARGET`.
    constants: Constants that the models use beside their params, with the same keys.

  Returns:
    One row per target leaf, in the order of `target`.

  Raises:
    PlanError: If a leaf has no rule, no group or no fitting source; if a rule, axis map
      or group owns no leaf; if a source leaf is neither read nor listed in
      `unused_source`; if rows of a table have no source and never learn; or if the
      target's model computes otherwise than the source's.
  """
  # A mistake in the plan itself has many consequences, so it is reported alone.
  if causes := completeness.mistakes(plan, sources, target):
    raise _error(causes)
  bind = _Binder(plan, vocabularies or {}, constants or {})
  owners = completeness.Owners(plan, target)
  rows: list[Row] = []
  misfits: dict[str, list[str]] = {}  # Leaves by the cause that they share.
  # Every leaf is tried, so that one error reports all that does not fit.
  for name, spec in target.items():
    try:
      rows.append(_row(plan, sources, name, spec, owners, bind))
    except _Misfit as misfit:
      misfits.setdefault(str(misfit), []).append(name)
  # Causes name leaves of the source, whose layers have numbers, so both cells fold.
  lines = [f"{names}: {cause}" for _, (names, cause) in fold.fold(
      [(_shown(names), cause) for cause, names in misfits.items()], linked=2)]
  reported = " ".join(
      f"{', '.join(names)}: {cause}" for cause, names in misfits.items())
  # After the misfits, which explain some of what follows.
  lines += completeness.idle(plan, target, owners, rows)
  lines += completeness.unread(plan, sources, rows, reported)
  lines += completeness.broken(plan, rows, constants or {})
  if lines:
    raise _error(lines)
  return rows


def _error(lines: Sequence[str]) -> PlanError:
  noun = "misfit" if len(lines) == 1 else "misfits"
  return PlanError("\n  ".join([f"Plan does not fit ({len(lines)} {noun}):", *lines]))


def _shown(names: Sequence[str]) -> str:
  """Returns the leaves that share a cause, cut short: the cause is what matters."""
  folded = tree.fold(names)
  if not folded[3:]:
    return ", ".join(folded)
  # What the first and the last name in order have in common, all between them have.
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
  # Complete for a leaf that starts fresh; a source adds its own fields below.
  row = Row(name=name, spec=spec, how=rule.fresh, rule=index, group=group.name,
            unfreeze_step=group.unfreeze_step)
  if rule.source is None:
    return dataclasses.replace(row, table=_table(group, row))
  names = tuple(_expand(template, found, index) for template in rule.sources)
  source_spec = _source_spec(index, names, sources[rule.checkpoint])
  changes = _changes(plan, rule, names[0], source_spec, name, spec, bind)
  # The mean of one leaf with itself is a copy.
  how = "mapped" if changes else "copy" if len(set(names)) == 1 else "mean"
  row = dataclasses.replace(
      row, how=how, sources=names, source_spec=source_spec,
      checkpoint=rule.checkpoint, changes=changes)
  return dataclasses.replace(row, table=_table(group, row))


def _table(group: plan_lib.Group, row: Row) -> Table | None:
  """Returns the rows of a leaf that learn, by its group; None means all of it."""
  if group.table_rows is None:
    return None
  dim = next((d for d, axis in enumerate(row.spec.axes)
              if axis in vocabulary.TABLES), None)
  if dim is None:
    raise _Misfit(
        f"group {group.name!r} has table_rows, and {_size(row.spec)} is no table: it"
        f" has none of the axes {', '.join(vocabulary.TABLES)}. Narrow the group's"
        " params.")
  size = row.spec.shape[dim]
  if not isinstance(group.table_rows, str):
    # `Group` sorts the rows, so the last one is the largest.
    if group.table_rows[-1] >= size:
      raise _Misfit(
          f"group {group.name!r} has row {group.table_rows[-1]} in table_rows, and"
          f" axis `{row.spec.axes[dim]}` is {size} here.")
    return Table(dim=dim, index=np.asarray(group.table_rows, np.int32))
  # A leaf without a source is fresh in all its rows.
  if not row.sources:
    return Table(dim=dim, index=np.arange(size, dtype=np.int32))
  fresh = [np.flatnonzero(c.binding.index < 0) for c in row.changes if c.dim == dim]
  if not fresh or not fresh[0].size:
    raise _Misfit(
        f"group {group.name!r} has table_rows={plan_lib.FRESH_ROWS!r}, and every row"
        " here is a copy of the source's. List the rows that are to learn, or freeze"
        " the leaf.")
  return Table(dim=dim, index=fresh[0].astype(np.int32))


def _expand(template: str, found: re.Match, index: int) -> str:
  try:
    return found.expand(template)
  # `expand` raises re.error for a group number that the target lacks, and IndexError
  # for a group name.
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
  """Says what the checkpoint lacks: a leaf, or the whole layer that holds it."""
  parts = name.split("/")
  for depth in range(1, len(parts) + 1):
    start = "/".join(parts[:depth])
    there = dict.fromkeys("/".join(n.split("/")[:depth]) for n in specs)
    alike = [other for other in there if other != start
             and len(tree.fold([other, start])) == 1]
    # The first part that is missing where others of the same kind exist: a layer that
    # the checkpoint lacks says more than each of its leaves.
    if start not in there and alike:
      rest = "/..." if depth < len(parts) else ""
      return (f"{start}{rest}, not in the checkpoint, which has"
              f" only {', '.join(tree.fold(alike))}.")
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
            f"axis `{axis}` is {sizes[0]} in the source and {sizes[1]} here, and no"
            f" axis map says how. Add On(axis={axis!r}, map=...), or a rule with"
            " source=None.")
      continue
    binding = bind(on, rule.checkpoint, source_name, name, *sizes)
    # A map that changes nothing, such as a vocabulary that matches token by token, is
    # no change: the row is a copy then, which restore does without a program.
    if (sizes[0] != sizes[1] or binding.mixture is not None
        or (binding.index != np.arange(sizes[1])).any()):
      changes.append(Change(dim=dim, reads=target.reads[dim], binding=binding))
  return tuple(changes)


class _Binder:
  """Binds each axis map once for all leaves, which must agree on its sizes."""

  def __init__(
      self, plan: plan_lib.TransferPlan,
      vocabularies: Mapping[str, vocabulary.Vocabulary],
      constants: Mapping[str, Mapping[str, Any]]):
    self._plan, self._vocabularies, self._constants = plan, vocabularies, constants
    self._bound: dict[Any, tuple[str, tuple[int, int], Any]] = {}

  def __call__(
      self, on: int, checkpoint: str, source_name: str, name: str, source: int,
      target: int,
  ) -> plan_lib.Binding:
    axis = self._plan.axes[on].axis
    # All leaves share one object: the audit, its JSON and `completeness` distinguish
    # bindings by identity, and matching a vocabulary for each leaf would take long.
    # A reason is kept, too, so that all leaves give the same one and are folded.
    # A model may read other tokens than it writes, and each side is matched by its own.
    tokens = [words and words.of(leaf) for words, leaf in (
        (self._vocabularies.get(checkpoint), source_name),
        (self._vocabularies.get(TARGET), name))]
    key = on, checkpoint, *map(id, tokens)
    if key not in self._bound:
      self._bound[key] = (
          name, (source, target), self._bind(on, checkpoint, source, target, *tokens))
    first, sizes, binding = self._bound[key]
    if sizes != (source, target):
      raise _Misfit(
          f"axis `{axis}` goes from {source} to {target} here and from {sizes[0]} to"
          f" {sizes[1]} in {first}, under one axis map, {on}. Give each its own On"
          " with params=.")
    if isinstance(binding, str):
      raise _Misfit(f"axis `{axis}`: {binding}.")
    return binding

  def _bind(
      self, on: int, checkpoint: str, source: int, target: int,
      source_tokens: vocabulary.Vocabulary | None,
      target_tokens: vocabulary.Vocabulary | None,
  ) -> plan_lib.Binding | str:
    """Returns the binding, or the reason why there is none."""
    try:
      return self._plan.axes[on].map.bind(plan_lib.AxisSizes(
          axis=self._plan.axes[on].axis, source=source, target=target,
          source_vocabulary=source_tokens, target_vocabulary=target_tokens,
          source_constants=self._constants.get(checkpoint, {}),
          target_constants=self._constants.get(TARGET, {})))
    # Axis maps are the user's to write, and `AxisMap.bind` promises a ValueError.
    except ValueError as error:
      return str(error)


def _size(spec: tree.Spec) -> str:
  return f"{_axes(spec)} {spec.shape}"


def _axes(spec: tree.Spec) -> str:
  return f"({', '.join(spec.axes)})"
