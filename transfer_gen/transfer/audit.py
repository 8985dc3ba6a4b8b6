"""What a transfer does, as people are told: what reaches, what learns, what is left.

An `Audit` is what `audit.json` holds; the table, the page and the comparison of two
runs are all made of it.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.formats import whole
from transfer_gen.transfer import fold
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import rows_json

FILE = "audit.json"  # In a workdir.
FRESH = ("init", "zeros", "ones")  # `Row.how` of what reads no source.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
  """A resolved plan.

  Attributes:
    plan: Its fingerprint.
    rows: What happens to each leaf of the target.
    groups: What learns.
    whys: Reasons that rules give, by their index.
    left: Source leaves that no row reads, by checkpoint and name.
  """
  plan: str
  rows: Sequence[resolve.Row]
  groups: tuple[plan_lib.Group, ...]
  whys: Mapping[int, str]
  left: Mapping[str, Mapping[str, tree.Spec]]


def summarize(
    plan: plan_lib.TransferPlan, rows: Sequence[resolve.Row],
    sources: Mapping[str, Mapping[str, tree.Spec]],
) -> Audit:
  """Summarizes a plan that resolved to `rows`."""
  read = {(row.checkpoint, name) for row in rows for name in row.sources}
  left = {
      checkpoint: {name: spec for name, spec in specs.items()
                   if (checkpoint, name) not in read}
      for checkpoint, specs in sources.items()}
  return Audit(
      plan=plan_lib.fingerprint(plan), rows=tuple(rows), groups=plan.groups,
      whys={i: rule.why for i, rule in enumerate(plan.rules) if rule.why}, left=left)


def read(workdir: epath.PathLike) -> Audit:
  """Reads the audit that a run left in its workdir.

  Raises:
    errors.UserError: If there is none that this version of the package reads.
  """
  return whole.read_json(epath.Path(workdir) / FILE, from_json)


def totals(audit: Audit) -> dict[str, dict[str, int]]:
  """Leaves, params and bytes of each fate; "left_behind" counts the source's.

  A leaf that learns in part is a learning leaf; the rest of its params are frozen.
  """
  rows = audit.rows
  of_all = count(row.spec for row in rows)
  of_how = lambda *hows: count(row.spec for row in rows if row.how in hows)
  return {
      "copied": of_how("copy"),
      "mapped": of_how("mapped", "mean"),
      "fresh": of_how(*FRESH),
      "left_behind": count(
          spec for specs in audit.left.values() for spec in specs.values()),
      "learning": learning(rows),
      "frozen": {key: whole - learning(rows)[key] for key, whole in of_all.items()},
      "target": of_all,
  }


def count(specs: Iterable[tree.Spec]) -> dict[str, int]:
  """Leaves, params and bytes."""
  specs = list(specs)
  return {"leaves": len(specs), "params": sum(s.size for s in specs),
          "bytes": sum(s.nbytes for s in specs)}


def learning(rows: Iterable[resolve.Row]) -> dict[str, int]:
  """Leaves that learn at some step, and their params and bytes that do."""
  rows = [row for row in rows if row.learning]
  return {"leaves": len(rows), "params": sum(row.learning for row in rows),
          "bytes": sum(row.learning * row.spec.dtype.itemsize for row in rows)}


def coverage(audit: Audit) -> float:
  """Share of the target's params that come from a source; fresh rows of a mapped
  leaf do not."""
  total = sum(row.spec.size for row in audit.rows)
  return sum(_filled(audit.rows)) / total if total else 1.0


def check_coverage(audit: Audit, least: float) -> None:
  """Sees that enough of the target comes from a source.

  Raises:
    errors.UserError: If `coverage` is below `least`, with the largest leaves that
      are not covered; if `least` is no share.
  """
  if not 0 <= least <= 1:
    raise errors.UserError(f"min_coverage is {least:g}, must be from 0 to 1.")
  share = coverage(audit)
  if share >= least:
    return
  missing = [(row, row.spec.size - filled)
             for row, filled in zip(audit.rows, _filled(audit.rows))]
  folded = [(times * int(each), times, name) for times, (name, each) in
            fold.fold([(row.name, str(lacks)) for row, lacks in missing if lacks])]
  folded.sort(key=lambda line: -line[0])
  lines = [f"  {name}{f' ({times} leaves)' if times > 1 else ''}: {lacks:,} params"
           for lacks, times, name in folded[:5]]
  more = [f"  and {len(folded) - 5} more"] if folded[5:] else []
  raise errors.UserError("\n".join([
      f"The plan fills {100 * share:.1f}% of the target's params from the source, and"
      f" min_coverage asks for {100 * least:g}%. The most that it does not fill:",
      *lines, *more, "Give these a source, or ask for less."]))


def to_json(audit: Audit) -> dict[str, Any]:
  """The audit as JSON types; `totals` and `coverage` are for other readers."""
  return {
      "plan": audit.plan,
      **rows_json.to_json(audit.rows),
      "groups": rows_json.groups_to_json(audit.groups),
      "whys": {str(index): why for index, why in audit.whys.items()},
      "left": {
          checkpoint: [{"name": name, **rows_json.spec_to_json(spec)}
                       for name, spec in specs.items()]
          for checkpoint, specs in audit.left.items()},
      "totals": totals(audit),
      "coverage": coverage(audit),
  }


def from_json(data: Mapping[str, Any]) -> Audit:
  """The audit that `to_json` wrote.

  Raises:
    errors.UserError: If it is none that this version reads.
  """
  try:
    return Audit(
        plan=data["plan"], rows=tuple(rows_json.from_json(data)),
        groups=rows_json.groups_from_json(data["groups"]),
        whys={int(index): why for index, why in data["whys"].items()},
        left={checkpoint: {
            spec["name"]: rows_json.spec_from_json(
                {k: v for k, v in spec.items() if k != "name"})
            for spec in specs} for checkpoint, specs in data["left"].items()})
  except (KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
        f"Not an audit that this version of the package reads: {error}.") from error


def _filled(rows: Sequence[resolve.Row]) -> list[int]:
  """How many params of each row come from a source."""
  entries: dict[int, int] = {}  # Of each binding; rows share them.
  filled = []
  for row in rows:
    size = row.spec.size if row.sources else 0
    for change in row.changes:
      key = id(change.binding)
      if key not in entries:
        entries[key] = _entries(change.binding)
      size = size // row.spec.shape[change.dim] * entries[key]
    filled.append(size)
  return filled


def _entries(binding: plan_lib.Binding) -> int:
  has = np.asarray(binding.index) >= 0
  if binding.mixture is not None:
    has[binding.mixture.rows] = True
  return int(has.sum())
