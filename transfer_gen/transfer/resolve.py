"""Plan x source specs x target specs -> one row a target leaf. Reads no array."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
import re

import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

TARGET = "target"  # The target's key among the vocabularies.
_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Change:
  """An axis map at work on one dimension of one leaf."""
  dim: int
  binding: plan_lib.Binding


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
  """What happens to one leaf of the target.

  Attributes:
    name: The leaf.
    spec: Its spec.
    how: "copy", "mapped" (some axis changes), "init", "zeros" or "ones".
    rule: Index of the rule that owns it.
    group: Name of the group that owns it.
    unfreeze_step: First step at which it learns; None: never.
    source: Name of the source leaf; None where nothing is read.
    source_spec: Its spec.
    checkpoint: Which source.
    changes: The axis maps, in the order of the dimensions.
  """
  name: str
  spec: tree.Spec
  how: str
  rule: int
  group: str
  unfreeze_step: int | None
  source: str | None = None
  source_spec: tree.Spec | None = None
  checkpoint: str = ""
  changes: tuple[Change, ...] = ()


class PlanError(errors.UserError):
  """A plan that does not fit its source and target: every misfit at once."""


class _Misfit(Exception):
  """Why one leaf has no row."""


def resolve(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    target: _Specs,
    vocabularies: Mapping[str, vocabulary.Vocabulary] | None = None,
) -> list[Row]:
  """Decides what reaches each leaf of the target, and what learns.

  Args:
    plan: The plan.
    sources: Specs of each checkpoint by its name in the plan ("" for the only one).
    target: Specs of the target's params.
    vocabularies: Tokens by checkpoint name, and the target's under `TARGET`.

  Returns:
    One row a target leaf, in the target's order.

  Raises:
    PlanError: If a leaf has no rule, group or fitting source; if a rule, axis map
      or group owns no leaf; if a source leaf is neither read nor listed in
      `unused_source`.
  """
  if causes := _causes(plan, sources, target):
    raise _error(causes)
  bind = _binder(sources, vocabularies or {})
  rows, misfits = [], {}  # misfits: {cause: leaves that it hits}.
  for name, spec in target.items():
    try:
      rows.append(_row(plan, sources, name, spec, bind))
    except _Misfit as misfit:
      misfits.setdefault(str(misfit), []).append(name)
  lines = [f"{', '.join(names)}: {cause}" for cause, names in misfits.items()]
  lines += _idle(plan, target, rows)
  lines += _unread(plan, sources, rows, " ".join(lines))
  if lines:
    raise _error(lines)
  return rows


def _error(lines: Sequence[str]) -> PlanError:
  noun = "misfit" if len(lines) == 1 else "misfits"
  return PlanError("\n  ".join([f"Plan does not fit ({len(lines)} {noun}):", *lines]))


def _causes(
    plan: plan_lib.TransferPlan, sources: Mapping[str, _Specs], target: _Specs
) -> list[str]:
  """Mistakes in the plan itself; each would misfit many leaves, so it stands alone."""
  lines = []
  patterns = [
      *((f"rule {i}", rule.target) for i, rule in enumerate(plan.rules)),
      *((f"group {group.name!r}", group.params) for group in plan.groups),
      *((f"axis map {i}", on.params) for i, on in enumerate(plan.axes)),
      *(("unused_source", pattern) for pattern in plan.unused_source)]
  for owner, pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      lines.append(f"{owner}: {pattern!r} is no regular expression: {error}.")
  axes = {axis for spec in target.values() for axis in spec.axes}
  for axis in dict.fromkeys(on.axis for on in plan.axes):
    if axis not in axes:
      lines.append(f"no leaf carries axis `{axis}`; {_nearest(axis, axes)}")
  for i, rule in enumerate(plan.rules):
    if rule.source is not None and rule.checkpoint not in sources:
      lines.append(
          f"rule {i} reads {rule.source} from"
          f" {repr(rule.checkpoint) if rule.checkpoint else 'a source'}, and the run"
          f" has {', '.join(map(repr, sources)) or 'no source'}.")
  names = [group.name for group in plan.groups]
  for name in {name for name in names if names.count(name) > 1}:
    lines.append(f"two groups are named {name!r}; names must differ.")
  return lines


def _nearest(word: str, words) -> str:
  near = difflib.get_close_matches(word, sorted(words), n=2, cutoff=0.5)
  return f"nearest: {', '.join(f'`{n}`' for n in near) or 'none'}."


def _row(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    name: str,
    spec: tree.Spec,
    bind: Callable[..., plan_lib.Binding],
) -> Row:
  owner = tree.match([rule.target for rule in plan.rules], name)
  if owner is None:
    raise _Misfit(
        f"{_size(spec)} has no rule. Add one; source=None starts the leaf fresh.")
  grouped = tree.match([group.params for group in plan.groups], name)
  if grouped is None:
    raise _Misfit(
        f"{_size(spec)} has no group. Add one; unfreeze_step=None freezes it.")
  index, found = owner
  rule, group = plan.rules[index], plan.groups[grouped[0]]
  row = Row(name=name, spec=spec, how=rule.fresh, rule=index, group=group.name,
            unfreeze_step=group.unfreeze_step)
  if rule.source is None:
    return row
  source_name = _expand(rule.source, found, index)
  specs = sources[rule.checkpoint]
  if source_name not in specs:
    raise _Misfit(
        f"rule {index} reads {source_name}, not in the checkpoint;"
        f" {_nearest(source_name, specs)}")
  source_spec = specs[source_name]
  changes = _changes(plan, rule, source_name, source_spec, name, spec, bind)
  return dataclasses.replace(
      row, how="mapped" if changes else "copy", source=source_name,
      source_spec=source_spec, checkpoint=rule.checkpoint, changes=changes)


def _expand(template: str, found: re.Match, index: int) -> str:
  try:
    return found.expand(template)
  except (re.error, IndexError) as error:
    raise _Misfit(
        f"rule {index}: source {template!r} does not go with its target"
        f" {found.re.pattern!r}: {error}.") from error


def _changes(
    plan: plan_lib.TransferPlan,
    rule: plan_lib.Rule,
    source_name: str,
    source: tree.Spec,
    name: str,
    target: tree.Spec,
    bind: Callable[..., plan_lib.Binding],
) -> tuple[Change, ...]:
  if source.axes != target.axes:
    raise _Misfit(
        f"axes {_axes(source)} in {source_name} and {_axes(target)} here. A rule"
        " must relate leaves of the same axes.")
  changes = []
  for dim, axis in enumerate(target.axes):
    sizes = source.shape[dim], target.shape[dim]
    on = next((i for i, on in enumerate(plan.axes) if _acts(on, axis, name)), None)
    if on is None:
      if sizes[0] != sizes[1]:
        raise _Misfit(
            f"from {source_name}: axis `{axis}` is {sizes[0]} there and {sizes[1]}"
            f" here, and no axis map says how. Add On(axis={axis!r}, map=...), or a"
            " rule with source=None.")
      continue
    binding = bind(plan.axes[on], rule.checkpoint, *sizes)
    if sizes[0] != sizes[1] or (binding.index != np.arange(sizes[1])).any():
      changes.append(Change(dim=dim, binding=binding))
  return tuple(changes)


def _acts(on: plan_lib.On, axis: str, name: str) -> bool:
  return on.axis == axis and tree.match([on.params], name) is not None


def _binder(
    sources: Mapping[str, _Specs],
    vocabularies: Mapping[str, vocabulary.Vocabulary],
) -> Callable[..., plan_lib.Binding]:
  """Binds each axis map once for all leaves of the same sizes."""
  bound = {}

  def bind(on: plan_lib.On, checkpoint: str, source: int, target: int):
    at = (on, checkpoint, source, target)
    if at not in bound:
      try:
        bound[at] = on.map.bind(plan_lib.AxisSizes(
            axis=on.axis, source=source, target=target,
            source_vocabulary=vocabularies.get(checkpoint),
            target_vocabulary=vocabularies.get(TARGET)))
      except ValueError as error:
        raise _Misfit(f"axis `{on.axis}`: {error}.") from error
    return bound[at]

  return bind


def _idle(
    plan: plan_lib.TransferPlan, target: _Specs, rows: Sequence[Row]
) -> list[str]:
  """Rules, groups and axis maps that own no leaf, and rules that own too many."""
  lines = []
  owners = [tree.match([r.target for r in plan.rules], name) for name in target]
  owned = [owner[0] for owner in owners if owner]
  for i, rule in enumerate(plan.rules):
    count = owned.count(i)
    if count == 0:
      lines.append(
          f"rule {i} ({rule.target!r}) owns no leaf:"
          f" {_why_idle([r.target for r in plan.rules], i, target)}")
    elif rule.count is not None and count != rule.count:
      lines.append(
          f"rule {i} ({rule.target!r}) owns {count} leaves and says"
          f" count={rule.count}.")
  owners = [tree.match([g.params for g in plan.groups], name) for name in target]
  owned = [owner[0] for owner in owners if owner]
  for i, group in enumerate(plan.groups):
    if i not in owned:
      lines.append(
          f"group {group.name!r} ({group.params!r}) owns no leaf:"
          f" {_why_idle([g.params for g in plan.groups], i, target)}")
  reading = [name for name in target if name not in {
      row.name for row in rows if row.source is None}]
  for i, on in enumerate(plan.axes):
    first = lambda name, axis: next(
        k for k, other in enumerate(plan.axes) if _acts(other, axis, name))
    if not any(_acts(on, axis, name) and first(name, axis) == i
               for name in reading for axis in target[name].axes):
      lines.append(
          f"axis map {i} (axis `{on.axis}`, params {on.params!r}) acts on no leaf"
          " that reads a source.")
  return lines


def _why_idle(patterns: Sequence[str], index: int, target: _Specs) -> str:
  hits = [name for name in target if tree.match([patterns[index]], name)]
  if hits:
    return f"an earlier one owns {hits[0]} already. Move it up or remove it."
  return f"no leaf has such a name; {_nearest(patterns[index], target)}"


def _unread(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    rows: Sequence[Row],
    told: str,
) -> list[str]:
  """Source leaves nobody reads, unless a misfit `told` of them already."""
  read = {(row.checkpoint, row.source) for row in rows}
  left, listed = [], [False] * len(plan.unused_source)
  for checkpoint, specs in sources.items():
    for name in specs:
      found = tree.match(plan.unused_source, name)
      if found and (checkpoint, name) not in read:
        listed[found[0]] = True
      elif not found and (checkpoint, name) not in read and name not in told:
        left.append(name)
  lines = []
  if left:
    shown = ", ".join(left[:8]) + (f" and {len(left) - 8} more" if left[8:] else "")
    lines.append(
        f"{len(left)} source leaves are read by no rule: {shown}. Add a rule, or list"
        " them in unused_source.")
  for pattern, used in zip(plan.unused_source, listed):
    if not used and not told:
      lines.append(
          f"unused_source {pattern!r} leaves nothing behind: no unread source leaf"
          " has such a name. Remove it.")
  return lines


def _size(spec: tree.Spec) -> str:
  return f"{_axes(spec)} {spec.shape}"


def _axes(spec: tree.Spec) -> str:
  return f"({', '.join(spec.axes)})"
