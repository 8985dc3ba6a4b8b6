"""The evidence of a search for a strategy, as a table and as a plot."""

from collections.abc import Mapping
from typing import Any

from transfer_gen.run import narrow
from transfer_gen.run import page as page_lib
from transfer_gen.run import plots


def text(facts: Mapping[str, Any]) -> str:
  """Returns the evidence as a table.

  Args:
    facts: What `study.decision` writes as decision.json.
  """
  gradients = facts["relative_gradients"]
  steepest = max(gradients.values())
  layers = [("layer", "gradient / params", "of the largest"), *(
      (name, f"{value:.3g}", f"{value / steepest:.2f}")
      for name, value in gradients.items())]
  spent = sum(max(map(int, tried)) for tried in facts["losses"].values())
  return "\n".join([
      f"auto chose {facts['winner']}. Validation loss, nats per token, of what it tried"
      f" ({spent} of {facts['budget']} steps):", "",
      *narrow.table(_candidates(facts)), "",
      "Where the gradient is large against the params, from the top to the bottom:", "",
      *narrow.table(layers), "", "The same run, without a search:",
      "  " + " ".join(facts["overrides"]), ""])


def page(facts: Mapping[str, Any]) -> str:
  """Returns the evidence as HTML with curves; it opens without a network."""
  return page_lib.render(
      "search.html", title=f"auto chose {facts['winner']}", text=text(facts),
      plots=[one for one in (_losses(facts), _gradients(facts)) if one])


def _candidates(facts) -> list[tuple[str, ...]]:
  """The table of candidates: their losses where they stopped, and their cost."""
  losses = facts["losses"]
  stops = sorted({int(stop) for tried in losses.values() for stop in tried})
  # Candidates that went further come first; within a round, the lower loss.
  order = sorted(losses, key=lambda name: (
      -len(losses[name]), min(losses[name].values())))
  rows: list[tuple[str, ...]] = [
      ("strategy", *(f"step {stop}" for stop in stops), "GFLOPs")]
  for name in order:
    found = [losses[name].get(str(stop)) for stop in stops]
    rows.append((name, *("" if loss is None else f"{loss:.4f}" for loss in found),
                 f"{facts['flops'][name] / 1e9:,.1f}"))
  return rows


def _losses(facts) -> plots.Plot | None:
  return plots.curves("Candidates", page_lib.label("loss"), {
      name: {"": [(int(step), tried[step]) for step in sorted(tried, key=int)]}
      for name, tried in facts["losses"].items()})


def _gradients(facts) -> plots.Plot:
  gradients, title = facts["relative_gradients"], "Gradients against params"
  with plots.canvas() as drawn:
    axes = drawn.add_subplot()
    axes.barh(range(len(gradients)), list(gradients.values())[::-1], **plots.fill(0))
    axes.set_yticks(range(len(gradients)), list(gradients)[::-1])
    axes.set_xlabel("norm of the gradient / norm of the params")
    picture = plots.svg(drawn, title)
  return plots.Plot(title=title, picture=picture, legend=(), table=[
      ["layer", "gradient / params"],
      *([name, plots.number(value)] for name, value in gradients.items())])
