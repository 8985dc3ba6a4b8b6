"""Compares two audits leaf by leaf."""

import hashlib
import itertools

import numpy as np

from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import columns
from transfer_gen.transfer import fold
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import table

_MISSING = "no such leaf"
_ASPECTS = 4  # Source, shape, how, group.


def rows(there: audit_lib.Audit, here: audit_lib.Audit) -> list[str]:
  r"""Returns a folded table of the leaves that differ; empty if none does.

  The comparison covers where a leaf comes from, what happens to it and how it learns.
  It looks at what axis maps decided, not at how the plan is written.

  >>> from transfer_gen import tree
  >>> specs = tree.specs({"w": np.ones(2)}, {"w": ("mlp",)})
  >>> slow = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=(
  ...     plan_lib.Group(name="all", params=".*", lr_mult=0.1),))
  >>> there, here = (
  ...     audit_lib.summarize(plan, resolve.resolve(plan, {}, specs), {})
  ...     for plan in (plan_lib.SCRATCH, slow))
  >>> print(*rows(there, here), sep="\n")
  leaf  leaves  there      here
  w          1  group all  group all, lr_mult=0.1

  Args:
    there: The audit of the column "there".
    here: The audit of the column "here".
  """
  theirs, mine = _seen(there), _seen(here)
  lines: list[tuple[str, ...]] = []
  for name in {**theirs, **mine}:
    old, new = theirs.get(name), mine.get(name)
    if old != new:
      lines.append((name, *_apart(old, new)))
  found: list[tuple[str, ...]] = [("leaf", "leaves", "there", "here")]
  # Three cells carry the numbers of layers: the name, and the sources of both sides.
  for times, (name, *cells) in fold.fold(lines, linked=3):
    sides = [", ".join(filter(None, cells[side::2])) for side in (0, 1)]
    found.append((name, str(times), *sides))
  return list(itertools.chain(*columns.fit(found))) if lines else []


def _seen(audit: audit_lib.Audit) -> dict[str, tuple[str, ...]]:
  """Returns aspects of each leaf as text, and a digest of its axis maps' decisions."""
  groups = {group.name: table.group(group) for group in audit.groups}
  digests: dict[int, str] = {}
  seen: dict[str, tuple[str, ...]] = {}
  for row in audit.rows:
    # Not the rule's index: rules in another order may do the same to the leaf.
    _, source, _, _, how, _ = table.cells(row)
    seen[row.name] = (
        "" if source == "-" else f"from {source}",
        f"{table.shape(row.spec)} {row.spec.dtype}", how,
        f"group {groups[row.group]}", _changes(row, digests))
  return seen


def _apart(
    old: tuple[str, ...] | None, new: tuple[str, ...] | None
) -> list[str]:
  """Returns old and new of each aspect in turns; both are empty where they agree."""
  if old is None or new is None:
    absent = (_MISSING, *[""] * (_ASPECTS - 1))
    sides = zip((old or absent)[:_ASPECTS], (new or absent)[:_ASPECTS])
    return [cell for pair in sides for cell in pair]
  cells = []
  for before, after in zip(old[:_ASPECTS], new[:_ASPECTS]):
    cells += ["", ""] if before == after else [before, after]
  # A note such as "9214 matched" can be equal while other entries are matched.
  if old[2] == new[2] and old[_ASPECTS] != new[_ASPECTS]:
    cells[4:6] = [old[2], f"{new[2]}, other entries"]
  return cells


def _changes(row: resolve.Row, digests: dict[int, str]) -> str:
  parts = []
  for change in row.changes:
    key = id(change.binding)
    if key not in digests:
      digests[key] = _digest(change.binding)
    parts.append(f"{change.dim}{change.reads}{digests[key]}")
  return " ".join(parts)


def _digest(binding: plan_lib.Binding) -> str:
  # By content, because the bindings of two audits are different objects.
  mixture = binding.mixture
  parts = [binding.index, binding.share] + (
      [] if mixture is None else [mixture.rows, mixture.index, mixture.weights])
  found = hashlib.sha256(f"{binding.fresh} {binding.noise}".encode())
  for part in parts:
    # None must differ from an array without entries.
    found.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
  return found.hexdigest()
