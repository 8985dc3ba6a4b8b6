"""Parts of an HTML page that opens without a network, and the page of one run."""

from collections.abc import Mapping, Sequence
import html
import io
from typing import Any

from etils import epath
from matplotlib import figure

from transfer_gen.formats import whole
from transfer_gen.metrics import measures
from transfer_gen.run import audit_page
from transfer_gen.run import records
from transfer_gen.transfer import audit as audit_lib

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem;color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{
padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right}td:first-child,
th:first-child{text-align:left}pre{background:#f6f6f6;padding:1rem;overflow:auto}
.gain{font-size:1.2rem}svg{max-width:100%;height:auto}"""
_LABELS = {"loss": "loss, nats per token",
           "remembered": "loss on the source's text, bits per byte"}


def run_page(
    name: str, audit: audit_lib.Audit, lines: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the page of one run: its curve, if it has begun, and its audit."""
  curve = [plot({"train": lines, "validation": lines})] if lines else []
  curve += [plot({"validation": lines}, metric) for metric in metrics(lines)]
  return "\n".join([
      "<!doctype html><html lang=en><meta charset=utf-8>",
      f"<title>{html.escape(name)}</title>",
      f"<style>{STYLE}{audit_page.STYLE}</style>",
      f"<h1>{html.escape(name)}</h1>", *curve,
      "<h2>Transfer plan, leaf by leaf</h2>", audit_page.trees(audit),
      "</html>", ""])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns the lines of a table: the first column left-aligned, the others right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return ["  ".join(
      cell.ljust(w) if i == 0 else cell.rjust(w)
      for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]


def svg(canvas: figure.Figure) -> str:
  """Returns a figure as SVG, without the date at which it was drawn."""
  buffer = io.StringIO()
  # A date would change with each report of one run. The ids of the parts still do,
  # because `svg.hashsalt` is not set.
  canvas.savefig(buffer, format="svg", metadata={"Date": None})
  text = buffer.getvalue()
  # Without the XML declaration and the document type, which have no place in HTML.
  return text[text.index("<svg"):]


def metrics(lines: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the metrics of texts that validations were measured by."""
  return sorted({name for line in lines if line["split"] == "validation"
                 for name in line if name in measures.METRICS
                 and measures.METRICS[name].needs != measures.LOSSES})


# With `Figure` and not with pyplot, which keeps every figure open until it is closed,
# and may choose a backend that needs a display.
def plot(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], metric: str = "loss") -> str:
  """Plots validations over steps as SVG.

  Args:
    curves: Lines of metrics by what the curve is called; one named "train" is the
      training loss.
    metric: What is plotted. Lines without it are left out.
  """
  canvas = figure.Figure(figsize=(9, 4.5), layout="constrained")
  axes = canvas.add_subplot()
  for name, lines in curves.items():
    split = "train" if name == "train" else "validation"
    points = [(line["step"], line[metric]) for line in lines
              if line["split"] == split and metric in line]
    if points:
      axes.plot(*zip(*points), marker="." if split == "validation" else "",
                label=name)
  axes.set_xlabel("step")
  axes.set_ylabel(_LABELS.get(metric, metric))
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small")
  return svg(canvas)


def write(workdir: epath.PathLike) -> None:
  """Writes report.html into a workdir: the run's curve so far, and its audit."""
  workdir = epath.Path(workdir)
  whole.write_text(workdir / "report.html", run_page(
      workdir.name, audit_lib.read(workdir), records.read_metrics(workdir)))
