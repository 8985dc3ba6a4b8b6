"""Pages of HTML that open without a network, and the page of one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import jinja2
import markupsafe

from transfer_gen.formats import whole
from transfer_gen.metrics import measures
from transfer_gen.run import audit_page
from transfer_gen.run import plots
from transfer_gen.run import records
from transfer_gen.transfer import audit as audit_lib

_LABELS = {"loss": "loss, nats per token",
           "remembered": "loss on the source's text, bits per byte"}
FORGETTING = "Forgetting of the source's text"
# All that a template is given is escaped, unless it is Markup.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("transfer_gen.run"), autoescape=True,
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
  """Returns a page.

  Args:
    template: Name of a file in `transfer_gen/run/templates`.
    **values: What it shows. `title` is that of the page.
  """
  text = _TEMPLATES.get_template(template).render(values)
  # Halves of characters, which damaged texts may have, cannot be written to a file.
  return text.encode("utf-8", "replace").decode()


def run_page(
    name: str, audit: audit_lib.Audit, lines: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the page of one run: its curve, if it has begun, and its audit."""
  drawn = [plots.curves("Loss", label("loss", lines), {
      split: {"": points(lines, "loss", split)} for split in ("train", "validation")})]
  drawn += [validations(metric, {"validation": {"": lines}})
            for metric in metrics(lines)]
  drawn.append(validations(
      "remembered", {"validation": {"": lines}}, FORGETTING))
  return render("run.html", title=name, plots=[one for one in drawn if one],
                audit=audit_of(audit))


def audit_of(audit: audit_lib.Audit) -> markupsafe.Markup:
  """Returns an audit as part of a page."""
  return markupsafe.Markup(audit_page.trees(audit))


def metrics(lines: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the metrics of texts that validations were measured by."""
  return sorted({name for line in lines if line["split"] == "validation"
                 for name in line if name in measures.METRICS
                 and measures.METRICS[name].needs != measures.LOSSES})


def label(metric: str, *curves: Sequence[Mapping[str, Any]]) -> str:
  """Returns what the values of a metric are, with their unit, in lines of metrics."""
  validated = [line for lines in curves for line in lines
               if line["split"] == "validation"]
  # Drawings have no bytes, and their loss is that of a step of the pen.
  if metric == "loss" and validated and not any(
      "bits_per_byte" in line for line in validated):
    return "loss, nats per step"
  return _LABELS.get(metric, metric)


def points(
    lines: Sequence[Mapping[str, Any]], metric: str, split: str = "validation"
) -> list[tuple[float, float]]:
  """Returns step and value of each line of a split that has a metric."""
  return [(line["step"], line[metric]) for line in lines
          if line["split"] == split and line.get(metric) is not None]


def validations(
    metric: str, curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    title: str = "",
) -> plots.Plot | None:
  """Plots a metric of validations over steps; None if none was measured by it.

  Args:
    metric: Its name, as in the lines.
    curves: Lines of metrics, by name and by what distinguishes curves of one name.
    title: Title of the plot; if empty, it names the metric.
  """
  unit = label(
      metric, *(lines for group in curves.values() for lines in group.values()))
  return plots.curves(title or f"Validation, {metric}", unit, {
      name: {part: points(lines, metric) for part, lines in group.items()}
      for name, group in curves.items()})


def write(workdir: epath.PathLike) -> None:
  """Writes report.html into a workdir: the run's curve so far, and its audit."""
  workdir = epath.Path(workdir)
  whole.write_text(workdir / "report.html", run_page(
      workdir.name, audit_lib.read(workdir), records.read_metrics(workdir)))
