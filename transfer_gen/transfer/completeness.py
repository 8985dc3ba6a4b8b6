"""Finds what a plan leaves out: leaves without an owner and source leaves unread."""

from collections.abc import Iterable, Mapping, Sequence
import difflib
import functools
import re
from typing import Any

import numpy as np

from transfer_gen import tree
from transfer_gen.transfer import constants
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

_Specs = Mapping[str, tree.Spec]
_NO_ROWS = np.zeros(0, np.int64)


class Owners:
  """The rule and the group that own each leaf of the target.

  Attributes:
    rule: Index of the rule and its match, by leaf; leaves without a rule are missing.
    group: Index of the group, by leaf; leaves without a group are missing.

  >>> owners = Owners(plan_lib.SCRATCH, ["layer_0/attn/query/kernel"])
  >>> owners.group
  {'layer_0/attn/query/kernel': 0}
  """

  def __init__(self, plan: plan_lib.TransferPlan, target: Iterable[str]):
    rules = [rule.target for rule in plan.rules]
    groups = [group.params for group in plan.groups]
    self.rule: dict[str, tuple[int, re.Match]] = {}
    self.group: dict[str, int] = {}
    # Once for all: rows, idle rules and wrong counts are decided by the same matches.
    for name in target:
      if found := tree.match(rules, name):
        self.rule[name] = found
      if found := tree.match(groups, name):
        self.group[name] = found[0]


def mistakes(
    plan: plan_lib.TransferPlan, sources: Mapping[str, _Specs], target: _Specs
) -> list[str]:
  """Returns mistakes in the plan itself.

  Each would make many leaves misfit, so these are reported alone.

  >>> mistakes(plan_lib.TransferPlan(
  ...     rules=(), groups=plan_lib.SCRATCH.groups * 2), {}, {})
  ["two groups are named 'all'; names must differ."]
  """
  lines = []
  # Axes by the target alone: sources may carry more, in leaves that stay behind.
  axes = {axis for spec in target.values() for axis in spec.axes}
  for axis in dict.fromkeys(on.axis for on in plan.axes):
    if axis == "position" and axis not in axes:
      lines.append(
          "no leaf carries axis `position`: sinusoidal and rotary positions have no"
          " params and reach any length. Remove the axis map.")
    elif axis not in axes:
      lines.append(f"no leaf carries axis `{axis}`; {nearest(axis, axes)}")
  for i, rule in enumerate(plan.rules):
    if rule.source is not None and rule.checkpoint not in sources:
      lines.append(
          f"rule {i} reads {' and '.join(rule.sources)} from"
          f" {repr(rule.checkpoint) if rule.checkpoint else 'a source'}, and the run"
          f" has {', '.join(map(repr, sources)) or 'no source'}.")
  names = [group.name for group in plan.groups]
  for name in sorted({name for name in names if names.count(name) > 1}):
    lines.append(f"two groups are named {name!r}; names must differ.")
  return lines


def nearest(word: str, words: Iterable[str]) -> str:
  """Returns the end of a sentence that suggests the most similar of `words`.

  >>> nearest("embde", ["embed", "mlp"])
  'nearest: `embed`.'
  """
  near = difflib.get_close_matches(word, sorted(words), n=2, cutoff=0.5)
  return f"nearest: {', '.join(f'`{n}`' for n in near) or 'none'}."


def acting(plan: plan_lib.TransferPlan, axis: str, name: str) -> int | None:
  """Returns the index of the axis map for an axis of a leaf, or None.

  >>> from transfer_gen.transfer import axes
  >>> plan = plan_lib.TransferPlan(rules=(), groups=(), axes=(
  ...     plan_lib.On(axis="mlp", map=axes.Cut(), params="up/.*"),))
  >>> acting(plan, "mlp", "up/kernel"), acting(plan, "mlp", "down/kernel")
  (0, None)
  """
  return next((i for i, on in enumerate(plan.axes) if on.axis == axis
               and tree.match([on.params], name) is not None), None)


def idle(
    plan: plan_lib.TransferPlan, target: _Specs, owners: Owners, rows: Sequence[Any]
) -> list[str]:
  """Reports rules, groups and axis maps without a leaf, and wrong `Rule.count`s.

  >>> plan = plan_lib.TransferPlan(
  ...     rules=(plan_lib.Rule(target="haed", source=None),),
  ...     groups=plan_lib.SCRATCH.groups)
  >>> target = tree.specs({"head": np.ones(2)}, {"head": ("vocab",)})
  >>> print(*idle(plan, target, Owners(plan, target), rows=[]))
  rule 0 ('haed') owns no leaf: no leaf has such a name; nearest: `head`.
  """
  lines = []
  owned = [index for index, _ in owners.rule.values()]
  patterns = [rule.target for rule in plan.rules]
  for i, rule in enumerate(plan.rules):
    count = owned.count(i)
    if count == 0:
      lines.append(
          f"rule {i} ({rule.target!r}) owns no leaf: {_why_idle(patterns, i, target)}")
    elif rule.count is not None and count != rule.count:
      lines.append(
          f"rule {i} ({rule.target!r}) owns {count} leaves and says"
          f" count={rule.count}.")
  patterns = [group.params for group in plan.groups]
  for i, group in enumerate(plan.groups):
    if i not in owners.group.values():
      lines.append(f"group {group.name!r} ({group.params!r}) owns no leaf:"
                   f" {_why_idle(patterns, i, target)}")
  # An axis map has no effect on a leaf that reads nothing, so it does not act there.
  fresh = {row.name for row in rows if not row.sources}
  acts = {acting(plan, axis, name) for name in target if name not in fresh
          for axis in target[name].axes}
  return lines + [
      f"axis map {i} (axis `{on.axis}`, params {on.params!r}) acts on no leaf that"
      " reads a source." for i, on in enumerate(plan.axes) if i not in acts]


def _why_idle(patterns: Sequence[str], index: int, target: _Specs) -> str:
  hits = [name for name in target if tree.match([patterns[index]], name)]
  if hits:
    return f"an earlier one owns {hits[0]} already. Move it up or remove it."
  return f"no leaf has such a name; {nearest(patterns[index], target)}"


def unread(
    plan: plan_lib.TransferPlan,
    sources: Mapping[str, _Specs],
    rows: Sequence[Any],
    reported: str,
) -> list[str]:
  """Reports source leaves that no rule reads.

  >>> source = tree.specs({"head": np.ones(2)}, {"head": ("vocab",)})
  >>> print(*unread(plan_lib.SCRATCH, {"": source}, rows=[], reported=""))
  1 source leaves are read by no rule: head. Add a rule, or list them in unused_source.

  Args:
    plan: The plan.
    sources: Specs of each checkpoint, by its name in the plan.
    rows: Rows of the leaves that fit.
    reported: Text of the misfits found so far. A leaf that it names is unread as a
      consequence of that misfit, and is not reported again.
  """
  read = {(row.checkpoint, source) for row in rows for source in row.sources}
  left, listed = [], [False] * len(plan.unused_source)
  for checkpoint, specs in sources.items():
    # A leaf that a misfit row would have read is not in `rows`; `reported` names it.
    for name in specs:
      if (checkpoint, name) in read:
        continue
      shown = f"{checkpoint}:{name}" if checkpoint else name
      if found := tree.match(plan.unused_source, shown):
        listed[found[0]] = True
      # A search in the text, because misfits name leaves within sentences.
      elif name not in reported:
        left.append(shown)
  lines = []
  if left:  # Folded and cut short: a checkpoint may have thousands of leaves.
    folded = tree.fold(left)
    more = f" and {len(folded) - 8} more" if folded[8:] else ""
    lines.append(
        f"{len(left)} source leaves are read by no rule: {', '.join(folded[:8])}{more}."
        " Add a rule, or list them in unused_source.")
  return lines + [
      f"unused_source {pattern!r} leaves nothing behind: no unread source leaf has"
      " such a name. Remove it."
      for pattern, used in zip(plan.unused_source, listed) if not used and not reported]


def broken(
    plan: plan_lib.TransferPlan, rows: Sequence[Any],
    constants_: Mapping[str, constants.Constants]) -> list[str]:
  """Reports leaves that all fit, and yet do not work together or as they did.

  Args:
    plan: The plan.
    rows: `resolve.Row`s of the plan.
    constants_: As of `resolve.resolve`.
  """
  return [*torn_heads(rows), *frozen_as_drawn(rows),
          *constants.misfits(plan, rows, constants_)]


def frozen_as_drawn(rows: Sequence[Any]) -> list[str]:
  """Reports rows of tables that no source fills and that never learn.

  Args:
    rows: `resolve.Row`s.
  """
  found: dict[tuple[str, str, int, int], list[str]] = {}
  for row in rows:
    for change in row.changes:
      axis = row.spec.axes[change.dim]
      frozen = _unfilled(change.binding) if axis in vocabulary.TABLES else _NO_ROWS
      # Rows that a group lists learn, and all others are as frozen as the leaf.
      if row.unfreeze_step is not None:
        frozen = np.setdiff1d(frozen, row.table.index if row.table else frozen)
      if frozen.size:
        key = row.group, axis, frozen.size, len(change.binding.index)
        found.setdefault(key, []).append(row.name)
  return [
      f"{', '.join(tree.fold(names))}: {count} of {size} rows of axis `{axis}` have no"
      f" source and would stay as they were drawn, because group {group!r} never lets"
      f" them learn. Own them by a group with table_rows={plan_lib.FRESH_ROWS!r}, whose"
      " drawn rows learn alone."
      for (group, axis, count, size), names in found.items()]


def torn_heads(rows: Sequence[Any]) -> list[str]:
  """Reports attentions whose query heads no longer meet their key-value head.

  Heads belong together if their leaves have the same grandparent, e.g.
  `layer_0/attn/query/kernel` and `layer_0/attn/key/kernel`. In grouped-query attention
  several query heads in a row read one key-value head. Maps of `heads` and `kv_heads`
  that are each valid can still pair the wrong ones, and nothing else would notice.
  """
  keys: dict[str, Any] = {}
  torn: dict[str, list[str]] = {}
  for row in rows:
    if row.sources and "kv_heads" in row.spec.axes:
      keys.setdefault(_grandparent(row.name), row)
  for row in rows:
    if row.sources and "heads" in row.spec.axes and _grandparent(row.name) in keys:
      key = keys[_grandparent(row.name)]
      if why := _torn(_along(row, "heads"), _along(key, "kv_heads")):
        torn.setdefault(why, []).append(row.name)
  # By cause: with equal maps, all layers are torn in the same way.
  return [f"{', '.join(tree.fold(names))}: {why}" for why, names in torn.items()]


def _grandparent(name: str) -> str:
  return "/".join(name.split("/")[:-2])


def _along(row: Any, axis: str) -> tuple[int, int, plan_lib.Binding | None]:
  """Returns the sizes of an axis before and after, and its binding if it changes."""
  dim = row.spec.axes.index(axis)
  binding = next((c.binding for c in row.changes if c.dim == dim), None)
  return row.source_spec.shape[dim], row.spec.shape[dim], binding


# All layers share their bindings, which are hashed by identity: one answer serves all.
@functools.lru_cache(maxsize=256)
def _torn(
    heads: tuple[int, int, plan_lib.Binding | None],
    kv_heads: tuple[int, int, plan_lib.Binding | None],
) -> str | None:
  (old, new, query), (kv_old, kv_new, key) = heads, kv_heads
  if query is None and key is None:
    return None
  for head in range(new):
    copied = head if query is None else int(query.index[head])
    # The model pairs heads in rows: `new // kv_new` neighbours share a key-value head.
    here = head // (new // kv_new)
    if copied < 0:
      continue
    needs, found = copied // (old // kv_old), _entries(key, here)
    # An empty set is a fresh key-value head, which tears nothing apart.
    if found and needs not in found:
      return (
          f"query head {head} copies head {copied}, which reads key-value head {needs},"
          f" and would read a copy of {', '.join(map(str, sorted(found)))}. Map `heads`"
          " and `kv_heads` alike, as structure.grow does.")
  return None


def _entries(binding: plan_lib.Binding | None, entry: int) -> set[int]:
  """Returns the source entries that make a target entry; none if it is fresh."""
  if binding is None:
    return {entry}
  if binding.index[entry] >= 0:
    return {int(binding.index[entry])}
  if binding.mixture is None:
    return set()
  at = np.flatnonzero(binding.mixture.rows == entry)
  # Weight 0 fills up rows with fewer parts than others, so it is no part.
  return {int(i) for m in at for i, w in zip(
      binding.mixture.index[m], binding.mixture.weights[m]) if w}


def _unfilled(binding: plan_lib.Binding) -> np.ndarray:
  """Returns i64[R], the entries that no source fills; padding is not among them."""
  empty = np.flatnonzero(np.asarray(binding.index) == -1)
  # Mixed entries are -1, too, and come from the source all the same.
  return empty if binding.mixture is None else np.setdiff1d(empty, binding.mixture.rows)
