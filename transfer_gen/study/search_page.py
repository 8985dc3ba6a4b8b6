"""The evidence of a search for a strategy, as a table and as a plot."""

from collections.abc import Mapping
import html
from typing import Any

from matplotlib import figure

from transfer_gen.run import page as page_lib


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
      *page_lib.aligned(_candidates(facts)), "",
      "Where the gradient is large against the params, from the top to the bottom:", "",
      *page_lib.aligned(layers), "", "The same run, without a search:",
      "  " + " ".join(facts["overrides"]), ""])


def page(facts: Mapping[str, Any]) -> str:
  """Returns the evidence as HTML with curves; it opens without a network."""
  title = f"auto chose {facts['winner']}"
  return "\n".join([
      "<!doctype html><html lang=en><meta charset=utf-8>",
      f"<title>{html.escape(title)}</title><style>{page_lib.STYLE}</style>",
      f"<h1>{html.escape(title)}</h1>", _plot(facts),
      f"<pre>{html.escape(text(facts))}</pre></html>", ""])


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


def _plot(facts) -> str:
  canvas = figure.Figure(figsize=(9, 4.5), layout="constrained")
  left, right = canvas.subplots(1, 2)
  for name, tried in facts["losses"].items():
    steps = sorted(tried, key=int)
    left.plot([int(step) for step in steps], [tried[step] for step in steps],
              marker=".", linewidth=3 if name == facts["winner"] else 1, label=name)
  left.set_xlabel("step")
  left.set_ylabel("validation loss, nats per token")
  left.grid(alpha=0.3)
  left.legend(fontsize="small")
  gradients = facts["relative_gradients"]
  right.barh(list(gradients)[::-1], list(gradients.values())[::-1])
  right.set_xlabel("norm of the gradient / norm of the params")
  return page_lib.svg(canvas)
