"""Rows as a table, totals and JSON: what people read before anything runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_gen import tree
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_HEADER = ("leaf", "shape", "from", "rule", "how", "group")


def totals(
    rows: Sequence[resolve.Row], sources: Mapping[str, Mapping[str, tree.Spec]]
) -> dict[str, dict[str, int]]:
  """Leaves, params and bytes of each fate; "left_behind" counts the source's."""
  read = {(row.checkpoint, name) for row in rows for name in row.sources}
  left = [spec for checkpoint, specs in sources.items()
          for name, spec in specs.items() if (checkpoint, name) not in read]
  of = lambda *hows: [row.spec for row in rows if row.how in hows]
  return {
      "copied": _count(of("copy")),
      "mapped": _count(of("mapped", "mean")),
      "fresh": _count(of("init", "zeros", "ones")),
      "left_behind": _count(left),
      "learning": _count([r.spec for r in rows if r.unfreeze_step is not None]),
      "frozen": _count([r.spec for r in rows if r.unfreeze_step is None]),
      "target": _count([row.spec for row in rows]),
  }


def text(
    plan: plan_lib.TransferPlan, rows: Sequence[resolve.Row],
    sources: Mapping[str, Mapping[str, tree.Spec]],
) -> str:
  """The audit as an aligned table, with groups and totals below it."""
  lines = [_HEADER] + [_cells(row) for row in rows]
  groups = [_group(group, rows) for group in plan.groups]
  whys = [f"rule {i}: {rule.why}" for i, rule in enumerate(plan.rules) if rule.why]
  sums = [_total(name.replace("_", " "), total)
          for name, total in totals(rows, sources).items()]
  return "\n".join([*_aligned(lines), "", *groups, *whys, "", *sums, ""])


def leaves(specs: Mapping[str, tree.Spec]) -> str:
  """The leaves of one tree as an aligned table, with their total."""
  lines = [("leaf", "shape", "dtype", "axes")]
  lines += [(name, _shape(spec), str(spec.dtype), ", ".join(spec.axes))
            for name, spec in specs.items()]
  total = _count(list(specs.values()))
  return "\n".join([*_aligned(lines), "", _total("total", total), ""])


def to_json(
    plan: plan_lib.TransferPlan, rows: Sequence[resolve.Row],
    sources: Mapping[str, Mapping[str, tree.Spec]],
) -> dict[str, Any]:
  """The audit as JSON types."""
  return {
      "plan": plan_lib.fingerprint(plan),
      "rows": [{
          "name": row.name, "shape": list(row.spec.shape),
          "dtype": str(row.spec.dtype), "axes": list(row.spec.axes),
          "how": row.how, "rule": row.rule, "group": row.group,
          "unfreeze_step": row.unfreeze_step, "checkpoint": row.checkpoint,
          "sources": list(row.sources),
          "source_shape": list(row.source_spec.shape) if row.source_spec else None,
          "changes": [{"dim": change.dim, "note": change.binding.note}
                      for change in row.changes],
      } for row in rows],
      "totals": totals(rows, sources),
  }


def _count(specs: Sequence[tree.Spec]) -> dict[str, int]:
  return {"leaves": len(specs), "params": sum(s.size for s in specs),
          "bytes": sum(s.nbytes for s in specs)}


def _cells(row: resolve.Row) -> tuple[str, ...]:
  how = "; ".join(c.binding.note for c in row.changes) or row.how
  if row.how in ("init", "zeros", "ones"):
    how = f"fresh ({row.how})"
  source = "-"
  if row.sources:
    source = " + ".join(row.sources)
    source = f"{row.checkpoint}:{source}" if row.checkpoint else source
  group = row.group + (" (frozen)" if row.unfreeze_step is None else "")
  return row.name, _shape(row.spec), source, str(row.rule), how, group


def _shape(spec: tree.Spec) -> str:
  return f"({','.join(map(str, spec.shape))})"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  return ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip()
          for line in lines]


def _total(name: str, count: Mapping[str, int]) -> str:
  return (f"{name:12} {count['leaves']:5} leaves {count['params']:14,} params"
          f" {count['bytes']:16,} bytes")


def _group(group: plan_lib.Group, rows: Sequence[resolve.Row]) -> str:
  mine = _count([row.spec for row in rows if row.group == group.name])
  when = {None: "frozen", 0: "learns"}.get(
      group.unfreeze_step, f"learns from step {group.unfreeze_step}")
  rate = "" if group.unfreeze_step is None else f", {group.lr_mult:g} x the rate"
  return (f"group {group.name}: {mine['leaves']} leaves, {mine['params']:,} params,"
          f" {when}{rate}")
