"""The answer of a study as a picture, for a README or a slide."""

from collections.abc import Mapping
import textwrap
from typing import Any

from transfer_gen.run import page
from transfer_gen.run import plots
from transfer_gen.study import report_plots
from transfer_gen.study import sentences

FILE = "report.svg"  # In the workdir of a study.
_WIDTH, _HEIGHT = 11.0, 4.0  # Inches, without the text above.
_PAIR = 0.32  # Inches of a pair.
_LETTERS = 118  # In a line of the text.
_NAME = 24  # Letters of a name in the legend.


def draw(facts: Mapping[str, Any], curves: report_plots.Curves) -> str:
  """Returns question and answer of a study, its curves and gains, as an SVG file.

  Args:
    facts: What `study.run` found.
    curves: Lines of metrics, as of `report_page.study_page`.
  """
  named = {name: {part: page.points(lines, "loss") for part, lines in group.items()}
           for name, group in curves.items() if name in facts["runs"]}
  said = [line for text in (facts["question"], *sentences.answer(facts))
          for line in textwrap.wrap(text, _LETTERS)]
  gains = report_plots.by_unit(facts).values()
  height = max(_HEIGHT, 1.0 * len(gains) + _PAIR * len(facts["comparisons"]))
  with plots.canvas((_WIDTH, height + 0.38 + 0.22 * len(said))) as drawn:
    drawn.suptitle("\n".join(said), x=0.01, ha="left", fontsize="medium")
    grid = drawn.add_gridspec(len(gains), 2, height_ratios=[*map(len, gains)])
    left = drawn.add_subplot(grid[:, 0])
    plots.draw(left, page.label("loss", *(
        lines for name in named for lines in curves[name].values())), named)
    left.legend(plots.handles(len(named)), [
        plots.short(name, _NAME) for name in named], frameon=False)
    for row, pairs in enumerate(gains):
      report_plots.draw_gains(drawn.add_subplot(grid[row, 1]), pairs)
    return plots.file(drawn, facts["question"])
