"""Summarizes what a transfer does: what reaches the target, learns, or is left behind.

An `Audit` holds the content of `audit.json`. The table, the page and the comparison of
two runs are all made from it.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.formats import whole
from transfer_gen.transfer import constants as constants_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import rows_json

FILE = "audit.json"  # In a workdir.
TOLD = constants_lib.TOLD
FRESH = ("init", "zeros", "ones")  # Values of `Row.how` of rows that read no source.


# eq=False, because rows hold arrays; `difference` compares audits.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
  """A resolved plan and what it leaves behind.

  Attributes:
    plan: Fingerprint of the plan.
    rows: What happens to each leaf of the target.
    groups: Groups of the plan: what learns, and how.
    whys: Reasons that rules give, by the index of the rule.
    left: Specs of the source leaves that no row reads, by checkpoint and name.
    differ: Constants that the plan allows to differ, as (source's, target's) by name,
      by checkpoint.
  """
  plan: str
  rows: Sequence[rows_json.Row]
  groups: tuple[plan_lib.Group, ...]
  whys: Mapping[int, str]
  left: Mapping[str, Mapping[str, tree.Spec]]
  differ: Mapping[str, Mapping[str, Sequence[Any]]] = dataclasses.field(
      default_factory=dict)


def summarize(
    plan: plan_lib.TransferPlan, rows: Sequence[rows_json.Row],
    sources: Mapping[str, Mapping[str, tree.Spec]],
    constants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Audit:
  """Returns the audit of a plan.

  >>> from transfer_gen.transfer import resolve
  >>> specs = tree.specs({"b": np.ones(2), "w": np.ones(3)}, {".": ("mlp",)})
  >>> plan = plan_lib.TransferPlan(
  ...     rules=(plan_lib.Rule(target="b", source=None, why="a new task"),
  ...            plan_lib.Rule(target="w", source="w")),
  ...     groups=plan_lib.SCRATCH.groups, unused_source=("b",))
  >>> rows = resolve.resolve(plan, {"": specs}, specs)
  >>> found = summarize(plan, rows, {"": specs})
  >>> found.whys, list(found.left[""])
  ({0: 'a new task'}, ['b'])

  Args:
    plan: The plan.
    rows: The rows that the plan resolved to.
    sources: Specs of each checkpoint, by its name in the plan.
    constants: Constants of the models, as `resolve.resolve` takes them.
  """
  read = {(row.checkpoint, name) for row in rows for name in row.sources}
  left = {
      checkpoint: {name: spec for name, spec in specs.items()
                   if (checkpoint, name) not in read}
      for checkpoint, specs in sources.items()}
  return Audit(
      plan=plan_lib.fingerprint(plan), rows=tuple(rows), groups=plan.groups,
      whys={i: rule.why for i, rule in enumerate(plan.rules) if rule.why}, left=left,
      differ=constants_lib.of_rows(rows, constants or {}))


def read(workdir: epath.PathLike) -> Audit:
  """Reads the audit that a run left in its workdir.

  Raises:
    errors.UserError: If there is none that this version of the package can read.
  """
  return whole.read_json(epath.Path(workdir) / FILE, from_json)


def totals(audit: Audit) -> dict[str, dict[str, int]]:
  """Returns leaves, params and bytes by what happens to them.

  All count what the target holds, except "left_behind", which counts source leaves that
  nothing reads. A leaf of which only some rows learn is a learning leaf, and its other
  params count as frozen.

  >>> from transfer_gen.transfer import resolve
  >>> rows = resolve.resolve(
  ...     plan_lib.SCRATCH, {}, tree.specs({"w": np.ones(3)}, {"w": ("mlp",)}))
  >>> sums = totals(summarize(plan_lib.SCRATCH, rows, {}))
  >>> sums["fresh"], sums["copied"]["leaves"]
  ({'leaves': 1, 'params': 3, 'bytes': 24}, 0)
  """
  rows = audit.rows
  target = count(row.spec for row in rows)
  # A mean counts as mapped: it cannot be undone, as a copy can.
  of_how = lambda *hows: count(row.spec for row in rows if row.how in hows)
  return {
      "copied": of_how("copy"),
      "mapped": of_how("mapped", "mean"),
      "fresh": of_how(*FRESH),
      "left_behind": count(
          spec for specs in audit.left.values() for spec in specs.values()),
      "learning": learning(rows),
      "frozen": {key: size - learning(rows)[key] for key, size in target.items()},
      "target": target,
  }


def count(specs: Iterable[tree.Spec]) -> dict[str, int]:
  """Returns the numbers of leaves, params and bytes.

  >>> spec = tree.Spec(
  ...     shape=(2, 3), dtype=np.dtype("f4"), axes=("embed", "mlp"),
  ...     reads=(True, False))
  >>> count([spec, spec])
  {'leaves': 2, 'params': 12, 'bytes': 48}
  """
  specs = list(specs)
  return {"leaves": len(specs), "params": sum(s.size for s in specs),
          "bytes": sum(s.nbytes for s in specs)}


def learning(rows: Iterable[rows_json.Row]) -> dict[str, int]:
  """Returns how many leaves, params and bytes learn at some step.

  >>> from transfer_gen.transfer import resolve
  >>> specs = tree.specs(
  ...     {"b": np.ones(2), "w": np.ones(3, "f4")}, {".": ("mlp",)})
  >>> plan = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=(
  ...     plan_lib.Group(name="frozen", params="b", unfreeze_step=None),
  ...     plan_lib.Group(name="rest", params=".*")))
  >>> learning(resolve.resolve(plan, {}, specs))
  {'leaves': 1, 'params': 3, 'bytes': 12}
  """
  rows = [row for row in rows if row.learning]
  return {"leaves": len(rows), "params": sum(row.learning for row in rows),
          "bytes": sum(row.learning * row.spec.dtype.itemsize for row in rows)}


def coverage(audit: Audit) -> float:
  r"""Returns the share of the target's params that come from a source.

  Fresh rows of a mapped leaf do not count.

  >>> from transfer_gen.transfer import axes, resolve
  >>> table = {"embedding": ("vocab",)}
  >>> old = tree.specs({"embedding": np.ones(3)}, table)
  >>> new = tree.specs({"embedding": np.ones(4)}, table)
  >>> plan = plan_lib.TransferPlan(
  ...     rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
  ...     groups=plan_lib.SCRATCH.groups,
  ...     axes=(plan_lib.On(axis="vocab", map=axes.Extend()),))
  >>> coverage(summarize(plan, resolve.resolve(plan, {"": old}, new), {"": old}))
  0.75
  """
  total = sum(row.spec.size for row in audit.rows)
  # A target without params lacks nothing.
  return sum(filled(audit.rows)) / total if total else 1.0


def to_json(audit: Audit) -> dict[str, Any]:
  """Returns the audit as JSON types.

  `from_json` ignores `totals` and `coverage`, which are there for other programs.

  >>> from transfer_gen.transfer import resolve
  >>> specs = tree.specs({"w": np.ones(3)}, {"w": ("mlp",)})
  >>> rows = resolve.resolve(plan_lib.SCRATCH, {}, specs)
  >>> data = to_json(summarize(plan_lib.SCRATCH, rows, {}))
  >>> sorted(data)
  ['bindings', 'coverage', 'differ', 'groups', 'left', 'plan', 'rows', 'totals', 'whys']
  >>> to_json(from_json(data)) == data
  True
  """
  return {
      "plan": audit.plan,
      **rows_json.to_json(audit.rows),
      "groups": rows_json.groups_to_json(audit.groups),
      "whys": {str(index): why for index, why in audit.whys.items()},
      "left": {
          checkpoint: [{"name": name, **rows_json.spec_to_json(spec)}
                       for name, spec in specs.items()]
          for checkpoint, specs in audit.left.items()},
      "differ": {checkpoint: {name: list(pair) for name, pair in found.items()}
                 for checkpoint, found in audit.differ.items()},
      "totals": totals(audit),
      "coverage": coverage(audit),
  }


def from_json(data: Mapping[str, Any]) -> Audit:
  """Returns the audit that `to_json` wrote.

  Raises:
    errors.UserError: If this version of the package cannot read it.
  """
  try:
    return Audit(
        plan=data["plan"], rows=tuple(rows_json.from_json(data)),
        groups=rows_json.groups_from_json(data["groups"]),
        whys={int(index): why for index, why in data["whys"].items()},
        left={checkpoint: {
            spec["name"]: rows_json.spec_from_json(
                {k: v for k, v in spec.items() if k != "name"})
            for spec in specs} for checkpoint, specs in data["left"].items()},
        differ=data.get("differ", {}))
  except (KeyError, TypeError, AttributeError, errors.UserError) as error:
    raise errors.UserError(
        f"Not an audit that this version of the package can read: {error}.") from error


def filled(rows: Sequence[rows_json.Row]) -> list[int]:
  """Returns how many params of each row come from a source."""
  # By identity of the binding, because the rows of all layers share one object and
  # a vocabulary has many entries to count.
  entries: dict[int, int] = {}
  counts = []
  for row in rows:
    size = row.spec.size if row.sources else 0
    for change in row.changes:
      key = id(change.binding)
      if key not in entries:
        entries[key] = _entries(change.binding)
      # Maps act on dimensions independently, so the shares multiply.
      size = size // row.spec.shape[change.dim] * entries[key]
    counts.append(size)
  return counts


def _entries(binding: plan_lib.Binding) -> int:
  has = np.asarray(binding.index) >= 0
  # Mixed entries are -1 in `index`, and still come from the source.
  if binding.mixture is not None:
    has[binding.mixture.rows] = True
  return int(has.sum())
