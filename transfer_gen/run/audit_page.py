"""The audit as part of a page: both trees side by side, and how leaves map."""

from collections.abc import Mapping, Sequence
import html

from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import fold
from transfer_gen.transfer import table

# Where params come from, and whether they learn: each bar adds up to the whole target.
_BARS = (("copied", "mapped", "fresh"), ("learning", "frozen"))


def trees(audit: audit_lib.Audit) -> str:
  """Returns the source's leaves on the left and the target's on the right, as HTML.

  The page has the look of `templates/style.css`. Leaves that differ only in their
  numbers share a line. A fresh leaf has no left side, and a leaf that is left behind
  has no right side.
  """
  lines = [
      *_bars(audit),
      "<table class=trees><tr><th>source</th><th class=arrow>how</th><th>target</th>"
      "<th>shape</th><th>learns</th></tr>"]
  branch, seen = None, ["", ""]
  cells = [(*table.cells(row), _look(row.how)) for row in audit.rows]
  for times, cell in fold.fold(cells, linked=3):
    root = cell[0].split("/")[0]
    if root != branch:
      branch, seen = root, ["", ""]
      lines.append(_branch(root))
    lines.append(_leaf(times, cell, seen))
  return "\n".join([*lines, *_left(audit), "</table>"])


def _bars(audit: audit_lib.Audit) -> list[str]:
  sums = audit_lib.totals(audit)
  lines = []
  for fates in _BARS:
    parts = [_part(fate, sums[fate], sums["target"]["params"]) for fate in fates]
    lines.append(f"<div class=bar>{''.join(parts)}</div>")
  left, whole = sums["left_behind"], sums["target"]
  lines.append(
      f"<p>Target: {whole['leaves']} leaves, {whole['params']:,} params,"
      f" {whole['bytes']:,} bytes; {100 * audit_lib.coverage(audit):.1f}% of its params"
      f" come from a source. Left behind: {left['leaves']} leaves,"
      f" {left['params']:,} params.</p>")
  return lines


def _part(fate: str, sums: Mapping[str, int], whole: int) -> str:
  if not sums["params"]:
    return ""
  share = 100 * sums["params"] / whole
  text = f"{fate}: {sums['leaves']} leaves, {sums['params']:,} params, {share:.1f}%"
  return f'<div class={fate} style="width:{share:.3f}%" title="{text}">{text}</div>'


def _look(how: str) -> str:
  if how in audit_lib.FRESH:
    return "fresh"
  return "copy" if how == "copy" else "mapped"


def _branch(name: str) -> str:
  return f"<tr class=branch><td colspan=5>{html.escape(name)}</td></tr>"


def _leaf(times: int, cell: Sequence[str], seen: list[str]) -> str:
  """Returns a line; branches that the line above (`seen`) has too are not repeated."""
  name, source, _, shape, how, group, look = cell
  frozen = " frozen" if group.endswith("(frozen)") else ""
  shown = [_name(text, above) for text, above in zip((source, name), seen)]
  seen[:] = source, name
  return (
      f'<tr class="{look}{frozen}"><td>{shown[0]}</td>'
      f"<td><span class=how>{html.escape(how)}</span></td>"
      f"<td>{_times(times)}{shown[1]}</td><td>{html.escape(shape)}</td>"
      f"<td>{html.escape(group)}</td></tr>")


def _left(audit: audit_lib.Audit) -> list[str]:
  """Returns the lines of what is left behind; none if nothing is."""
  left = [(f"{checkpoint}:{name}" if checkpoint else name, table.shape(spec))
          for checkpoint in sorted(audit.left)
          for name, spec in audit.left[checkpoint].items()]
  if not left:
    return []
  return [_branch("left behind: no leaf of the target reads these"), *(
      f"<tr class=left><td>{_times(times)}{html.escape(name)}</td>"
      f"<td><span class=how>{table.LEFT}</span></td><td>-</td>"
      f"<td>{html.escape(shape)}</td><td>-</td></tr>"
      for times, (name, shape) in fold.fold(left))]


def _name(name: str, above: str) -> str:
  """Returns a name; branches that the line above has too are gray."""
  parts, before = name.split("/"), above.split("/")
  same = 0
  while same < min(len(parts), len(before)) - 1 and parts[same] == before[same]:
    same += 1
  again = "".join(f"{html.escape(part)}/" for part in parts[:same])
  rest = html.escape("/".join(parts[same:]))
  return f"<span class=again>{again}</span>{rest}" if again else rest


def _times(times: int) -> str:
  return f"<span class=times>{times} x </span>" if times > 1 else ""
