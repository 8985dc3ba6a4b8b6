"""Prints audits: every leaf for a file, folded and in color for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import zlib

from transfer_gen import tree
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import columns
from transfer_gen.transfer import fold
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

LEFT = "left behind"
_SAME = "same name"
_IDS = 60  # The most characters of row indices in a line.
_HEADER = ("leaf", "shape", "from", "rule", "how", "group")
# Names of looks; some are also the first words of the totals, see `_fate`.
# ANSI codes: what starts fresh stands out, and what is frozen is dim.
_STYLES = {
    "header": "1", "fresh": "1;33", "mapped": "36", LEFT: "35", "frozen": "2",
}


def full(audit: audit_lib.Audit) -> str:
  r"""Returns every leaf on its own line, without colors: the content of audit.txt.

  >>> import numpy as np
  >>> specs = tree.specs({"a_0": np.ones(2), "a_1": np.ones(2)}, {".*": ("mlp",)})
  >>> rows = resolve.resolve(plan_lib.SCRATCH, {}, specs)
  >>> audit = audit_lib.summarize(plan_lib.SCRATCH, rows, {})
  >>> print(*full(audit).splitlines()[:3], sep="\n")
  leaf  shape  from  rule  how           group
  a_0   (2)    -     0     fresh (init)  all
  a_1   (2)    -     0     fresh (init)  all
  """
  lines = [_HEADER, *(_line(*cells(row)) for row in audit.rows),
           *(_line(*line) for line in _left(audit))]
  return "\n".join([*columns.aligned(lines), "", *_below(audit), ""])


def folded(audit: audit_lib.Audit, colored: bool) -> str:
  r"""Returns the same for a terminal: numbered leaves that are alike are one row.

  No line has more than 100 characters: in a wider table, `same name` stands for a
  source that is called as the leaf is, and long cells are broken.

  >>> import numpy as np
  >>> specs = tree.specs({"a_0": np.ones(2), "a_1": np.ones(2)}, {".*": ("mlp",)})
  >>> rows = resolve.resolve(plan_lib.SCRATCH, {}, specs)
  >>> audit = audit_lib.summarize(plan_lib.SCRATCH, rows, {})
  >>> print(*folded(audit, colored=False).splitlines()[:2], sep="\n")
  leaf     leaves  shape  from  rule  how           group
  a_{0,1}       2  (2)    -     0     fresh (init)  all

  Args:
    audit: The audit to print.
    colored: Whether to use ANSI colors: fresh is yellow, mapped is cyan, left behind is
      magenta, and what is frozen is dim.
  """
  lines: list[tuple[str, ...]] = [("leaf", "leaves", *_HEADER[1:])]
  # `fold` needs a first cell that is unique. What is left behind has no leaf in the
  # target, so its source stands there while it is folded.
  for found in (map(cells, audit.rows), map(_turned, _left(audit))):
    for times, line in fold.fold(list(found), linked=3):
      if line[4] == LEFT:
        line = _turned(line)
      leaf, shape, *rest = _line(*line)
      lines.append((leaf, str(times), shape, *rest))
  if max(map(len, columns.aligned(lines))) > columns.WIDTH:
    lines = [(*line[:3], _SAME if line[3] == line[0] else line[3], *line[4:])
             for line in lines]
  shown = columns.fit(lines)
  below = [columns.wrap(text) for text in _below(audit)]
  # Colors come after the alignment, because their codes would count as characters.
  if colored:
    looks = [["header"], *map(_looks, lines[1:])]
    shown = [[_paint(text, look) for text in row] for row, look in zip(shown, looks)]
    below = [[_paint(text, _fate(row[0])) for text in row] for row in below]
  return "\n".join([*itertools.chain(*shown, [""], *below), ""])


def leaves(specs: Mapping[str, tree.Spec]) -> str:
  """Returns the leaves of one tree as an aligned table, with their total.

  >>> import numpy as np
  >>> print(leaves(tree.specs({"w": np.ones((2, 3))}, {"w": ("embed", "mlp")})))
  leaf  shape  dtype    axes
  w     (2,3)  float64  embed, mlp
  <BLANKLINE>
  total            1 leaves              6 params               48 bytes
  <BLANKLINE>
  """
  lines = [("leaf", "shape", "dtype", "axes")]
  lines += [(name, shape(spec), str(spec.dtype), ", ".join(spec.axes))
            for name, spec in specs.items()]
  total = audit_lib.count(specs.values())
  return "\n".join([*columns.aligned(lines), "", _total("total", total), ""])


def origins(audit: audit_lib.Audit, limit: int) -> str:
  """Returns what the fresh entries of each mapped axis are made of.

  Args:
    audit: The audit.
    limit: The most entries to list for each axis map. Padding is not listed.
  """
  names: dict[int, list[str]] = {}
  bindings: dict[int, plan_lib.Binding] = {}
  for row in audit.rows:
    for change in row.changes:
      bindings[id(change.binding)] = change.binding
      names.setdefault(id(change.binding), []).append(row.name)
  lines = []
  for key, binding in bindings.items():
    # -1 and not below 0, which would include padding.
    fresh = [i for i, source in enumerate(binding.index.tolist()) if source == -1]
    if fresh:
      lines += [*columns.wrap(f"{', '.join(tree.fold(names[key]))}: {binding.note}"),
                f"  {len(fresh)} entries without a source of their own:",
                *(f"  {i}: {_origin(binding, i)}" for i in fresh[:limit])]
      lines += [f"  and {len(fresh) - limit} more"] if fresh[limit:] else []
  return "\n".join([*(lines or ["No axis map leaves an entry without a source."]), ""])


def cells(row: resolve.Row) -> tuple[str, str, str, str, str, str]:
  """Returns leaf, source, rule, shape, how and group of a row as text."""
  source = " + ".join(row.sources) or "-"
  if row.sources and row.checkpoint:
    source = f"{row.checkpoint}:{source}"
  group = row.group
  if row.unfreeze_step is None:
    group += " (frozen)"
  elif row.unfreeze_step:
    group += f" (from step {row.unfreeze_step})"
  if row.table is not None:
    group += f" ({_rows(row)})"
  return row.name, source, str(row.rule), shape(row.spec), how(row), group


def how(row: resolve.Row) -> str:
  """Returns what happens to a leaf as text.

  >>> import numpy as np
  >>> specs = tree.specs({"w": np.ones(2)}, {"w": ("mlp",)})
  >>> how(resolve.resolve(plan_lib.SCRATCH, {}, specs)[0])
  'fresh (init)'
  """
  if row.how in audit_lib.FRESH:
    return f"fresh ({row.how})"
  # The mean of one leaf with itself is a copy.
  several = len(set(row.sources)) > 1
  notes = [f"mean of {len(row.sources)}, not invertible"] if several else []
  return "; ".join([*notes, *(c.binding.note for c in row.changes)]) or row.how


def shape(spec: tree.Spec) -> str:
  """Returns the sizes of a leaf as text.

  >>> import numpy as np
  >>> shape(tree.specs({"w": np.ones((2, 3))}, {"w": ("embed", "mlp")})["w"])
  '(2,3)'
  """
  return f"({','.join(map(str, spec.shape))})"


def group(group_: plan_lib.Group) -> str:
  """Returns a group's name and its fields that are not at their defaults.

  >>> group(plan_lib.Group(name="body", params=".*", lr_mult=0.1))
  'body, lr_mult=0.1'
  """
  fields = {field.name: repr(getattr(group_, field.name))
            for field in dataclasses.fields(group_)
            if field.name not in ("name", "params")
            and getattr(group_, field.name) != field.default}
  if isinstance(group_.table_rows, tuple):
    fields["table_rows"] = _ids(group_.table_rows)
  return ", ".join(
      [group_.name, *(f"{name}={value}" for name, value in fields.items())])


def _line(
    leaf: str, source: str, rule: str, size: str, how_: str, group_: str
) -> tuple[str, ...]:
  """Returns the cells in the order of the header."""
  return leaf, size, source, rule, how_, group_


def _left(audit: audit_lib.Audit) -> list[tuple[str, ...]]:
  return [("-", f"{checkpoint}:{name}" if checkpoint else name, "-", shape(spec), LEFT,
           "-")
          for checkpoint in sorted(audit.left)
          for name, spec in audit.left[checkpoint].items()]


def _turned(line: Sequence[str]) -> tuple[str, ...]:
  """Swaps leaf and source: for what is left behind, the source's names are folded."""
  return line[1], line[0], *line[2:]


def _below(audit: audit_lib.Audit) -> list[str]:
  sums = audit_lib.totals(audit)
  whole = sums["target"]["params"]
  # What is left behind is no part of the target, so it has no share of it.
  lines = [_total(name.replace("_", " "), total)
           + ("" if name == "left_behind" or not whole
              else f" {100 * total['params'] / whole:6.1f}%")
           for name, total in sums.items()]
  whys = [f"rule {i}: {audit.whys[i]}" for i in sorted(audit.whys)]
  filled = 100 * audit_lib.coverage(audit)
  differ = [f"differs from the source{' ' * bool(checkpoint)}{checkpoint}"
            + (f": {audit_lib.TOLD[name]}" if name in audit_lib.TOLD else
               f", as the plan allows: {name}, {theirs!r} there and {mine!r} here")
            for checkpoint, found in audit.differ.items()
            for name, (theirs, mine) in found.items()]
  return [*(_group(group_, audit.rows) for group_ in audit.groups), *whys, *differ, "",
          *lines,
          f"{filled:.1f}% of the target's params come from a source."]


def _total(name: str, count: Mapping[str, int]) -> str:
  return (f"{name:12} {count['leaves']:5} leaves {count['params']:14,} params"
          f" {count['bytes']:16,} bytes")


def _group(group_: plan_lib.Group, rows: Sequence[resolve.Row]) -> str:
  rows = [row for row in rows if row.group == group_.name]
  frozen = group_.unfreeze_step is None
  # A frozen group shows what it holds, a learning one how much of it learns.
  mine = audit_lib.count(r.spec for r in rows) if frozen else audit_lib.learning(rows)
  parts = [f"group {group_.name}: {mine['leaves']} leaves",
           f"{mine['params']:,} params"]
  return ", ".join([*parts, *(["frozen"] if frozen else _learning(group_, rows))])


def _learning(
    group_: plan_lib.Group, rows: Sequence[resolve.Row]) -> Iterator[str]:
  """Yields what and how a group learns."""
  yield from dict.fromkeys(_rows(row) for row in rows if row.table is not None)
  yield (f"learns from step {group_.unfreeze_step}" if group_.unfreeze_step
         else "learns")
  yield f"{group_.lr_mult:g} x the rate"
  if group_.schedule is not None:
    yield f"schedule {group_.schedule}"
  yield _decay(group_, rows)
  if group_.anchor is not None:
    yield f"held by {group_.anchor!r}"
  if any(row.moments for row in rows):
    yield "with the moments of the source"


def _rows(row: resolve.Row) -> str:
  assert row.table is not None
  return f"rows {len(row.table.index):,} of {row.spec.shape[row.table.dim]:,}"


def _decay(group_: plan_lib.Group, rows: Sequence[resolve.Row]) -> str:
  if group_.weight_decay == 0:
    return "no weight decay"
  spared = sum(tree.match([group_.no_decay], row.name) is not None for row in rows)
  what = ("norms and biases" if group_.no_decay == plan_lib.NO_DECAY
          else f"that match {group_.no_decay!r}")
  if spared == len(rows):
    return f"no weight decay on {what}"
  own = "of the run" if group_.weight_decay is None else f"{group_.weight_decay:g}"
  return f"weight decay {own}" + (f" but on {spared} {what}" if spared else "")


def _ids(rows: Sequence[int]) -> str:
  """Folds indices as the numbers of layers are; if that is long, gives a digest.

  The digest lets the comparison of two audits see that long lists differ.
  """
  folded = "".join(tree.fold(map(str, rows)))
  if len(folded) <= _IDS:
    return folded
  return f"{len(rows)} rows, crc32 {zlib.crc32(folded.encode()):08x}"


def _origin(binding: plan_lib.Binding, entry: int) -> str:
  if entry in binding.origins:
    return binding.origins[entry]
  if binding.mixture is not None:
    at = (binding.mixture.rows == entry).nonzero()[0]
    if at.size:
      weights, index = binding.mixture.weights[at[0]], binding.mixture.index[at[0]]
      return " + ".join(f"{w:.3g} x {i}" for w, i in zip(weights, index) if w)
  return f"fresh ({binding.fresh})"


def _looks(line: Sequence[str]) -> list[str]:
  how_, group_ = line[-2:]
  looks = ["frozen"] if group_.endswith("(frozen)") else []
  if how_.startswith("fresh ("):
    return [*looks, "fresh"]
  if how_ == LEFT:
    return [LEFT]
  return looks if how_ == "copy" else [*looks, "mapped"]


def _fate(text: str) -> list[str]:
  return [name for name in _STYLES if text.startswith(f"{name} ")]


def _paint(text: str, looks: Sequence[str]) -> str:
  codes = ";".join(_STYLES[look] for look in looks)
  return f"\x1b[{codes}m{text}\x1b[0m" if codes else text
