"""Plots for a page: SVG that reads on white and on black, and the numbers behind it."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import io
import json
import math
import re
from typing import Any
import warnings

import markupsafe
import matplotlib
from matplotlib import figure
from matplotlib import lines
from matplotlib import ticker

# Dark enough for a white page and light enough for a black one: each has a contrast of
# 3 to 1 at least with both (WCAG 2.1, 1.4.11).
COLORS = ("#1f83d6", "#d9541e", "#2a9155", "#c74fb1", "#a5791a",
          "#8c6fe0", "#1592a0", "#d64a66", "#6f8f1f", "#7d8790")
_DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2))  # In points: on, off, and so on.
# Stands for the color of the page's text until the SVG is written.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"], "font.size": 11,
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "grid.color": _INK, "grid.alpha": 0.2,
    "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": "none", "figure.facecolor": "none",
    "text.parse_math": False}  # A name may have a dollar sign.
_SIZE = (6.8, 4.0)  # Inches. Small, so that letters stay legible on a telephone.
_MARKED = 600  # Largest number of points in a plot that marks each.
_COLUMNS = 8  # Numbers in a row of a table.
# What Matplotlib drew of a curve. Until the SVG is written, its name holds its number
# and the texts of its marks; as hexadecimal digits, which no writer of attributes
# changes.
_DRAWN = re.compile(r'<g id="curve-(\d+)-([0-9a-f]*)">(.*?)</g>', re.DOTALL)

Points = Sequence[tuple[float, float]]
Table = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
  """A picture, and what it shows in words and numbers.

  Attributes:
    title: What it is called.
    picture: SVG, without names of curves.
    legend: For each name of a curve, SVG of a piece of it, and the name.
    table: The plotted numbers. The first cell of a header is "", and one table may have
      several.
    note: What a reader has to know beside it.
  """
  title: str
  picture: markupsafe.Markup
  legend: Sequence[tuple[markupsafe.Markup, str]]
  table: Table
  note: str = ""


@contextlib.contextmanager
def canvas(size: tuple[float, float] = _SIZE) -> Iterator[figure.Figure]:
  """Yields an empty figure of a size in inches; draw on it and write it within."""
  # `Figure` and not pyplot, which keeps every figure open until it is closed, and may
  # choose a backend that needs a display.
  with matplotlib.rc_context(_STYLE):
    yield figure.Figure(figsize=size, layout="constrained")


def look(number: int, texts: Sequence[str] = ()) -> dict[str, Any]:
  """Returns how Matplotlib draws the curve of a number: color, dashes and its name.

  Args:
    number: Place of the curve in the legend, by which a reader can hide it.
    texts: What each mark of the curve says where a pointer rests, or () for nothing.
      Points without a finite value have no mark.
  """
  dashes = _DASHES[number // len(COLORS) % len(_DASHES)]
  return {**fill(number, texts), "linestyle": (0, dashes) if dashes else "-"}


def fill(number: int, texts: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the same without dashes, for bars and marks; see `look`."""
  return {"color": COLORS[number % len(COLORS)],
          "gid": f"curve-{number}-{json.dumps(texts).encode().hex() if texts else ''}"}


def handles(count: int) -> list[lines.Line2D]:
  """Returns the lines of the first curves, for a legend of Matplotlib's."""
  return [lines.Line2D([], [], **look(number)) for number in range(count)]


def legend(names: Sequence[str]) -> list[tuple[markupsafe.Markup, str]]:
  """Returns a piece of the curve of each name, in the order of their numbers."""
  found = []
  for number, name in enumerate(names):
    dashes = " ".join(map(str, _DASHES[number // len(COLORS) % len(_DASHES)]))
    found.append((markupsafe.Markup(
        '<svg class="swatch" width="28" height="10" viewBox="0 0 28 10"'
        ' aria-hidden="true"><path d="M1 5H27" fill="none" stroke-width="3"'
        ' stroke="{}" stroke-dasharray="{}"/></svg>').format(
            COLORS[number % len(COLORS)], dashes), name))
  return found


def curves(
    title: str, label: str, named: Mapping[str, Mapping[str, Points]]) -> Plot | None:
  """Plots values over steps.

  Args:
    title: Title of the plot.
    label: What the values are, with their unit.
    named: Points (step, value) of each curve, by name and by what distinguishes curves
      of one name, such as their seed. These have one color.

  Returns:
    The plot; None if there is no point.
  """
  named = {name: kept for name, group in named.items() if (
      kept := {part: points for part, points in group.items() if points})}
  if not named:
    return None
  with canvas() as drawn:
    draw(drawn.add_subplot(), label, named)
    picture = svg(drawn, title)
  return Plot(title=title, picture=picture, legend=legend([*named]),
              table=_numbers(named))


def draw(
    axes: Any, label: str, named: Mapping[str, Mapping[str, Points]]) -> None:
  """Draws curves over steps on Matplotlib axes, see `curves`."""
  count = sum(len(points) for group in named.values() for points in group.values())
  for place, (name, group) in enumerate(named.items()):
    for part, points in group.items():
      # A single point is no line, and without a mark it would not be seen.
      marked = count <= _MARKED or len(points) == 1
      texts = [f"{_curve(name, part)}, step {step:,.10g}: {number(value)}"
               for step, value in points if math.isfinite(value)]
      axes.plot(*zip(*points), linewidth=1.3, marker="." if marked else "",
                **look(place, texts if marked else ()))
  axes.set_xlabel("step")
  axes.set_ylabel(label)


def logarithmic(axes: Any) -> None:
  """Makes the horizontal axis of Matplotlib axes logarithmic."""
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter(_Plain())
  axes.xaxis.set_minor_formatter(_Plain())


def svg(drawn: figure.Figure, title: str) -> markupsafe.Markup:
  """Returns a figure as SVG for the middle of a page.

  It is the same whenever it is drawn, names no address, and takes the color of the text
  around it. Two figures of one page need different titles.

  Args:
    drawn: What was drawn within `canvas`.
    title: What it shows, for readers who cannot see it.
  """
  text = _written(drawn, title, {}, transparent=True)
  size = re.search(r'viewBox="[^"]*"', text)
  assert size is not None
  inside = text[text.index(">", size.end()) + 1:]
  # Its rule would hold for the whole page.
  inside = re.sub(r"<style.*?</style>", "", inside, flags=re.DOTALL)
  # Names of parts that nothing refers to, which several figures have in common.
  used = {*re.findall(r'(?:url\(|href=")#([^)"]+)', inside)}
  inside = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "",
                  inside)
  inside = inside.replace("xlink:href", "href").replace(_INK, "currentColor")
  inside = inside.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
  # Hundredths of a point cannot be seen.
  inside = re.sub(r'(?<= )(d|x|y)="[^"]*"', lambda found: re.sub(
      r"(\.\d\d)\d+", r"\1", found[0]).replace(" \n", " "), inside)
  inside = re.sub(r"\n\s*", "\n", inside)
  return markupsafe.Markup(
      '<svg {} role="img" aria-label="{}" stroke-linejoin="round">{}').format(
          markupsafe.Markup(size[0]), title, markupsafe.Markup(inside))


def file(drawn: figure.Figure, title: str) -> str:
  """Returns a figure as an SVG file of its own, black on white; see `svg`."""
  text = _written(drawn, title, {"Title": title}, facecolor="white")
  return text.replace(_INK, "#1b1b1f")


def short(name: str, length: int) -> str:
  """Returns a name for a plot, without its middle if it has more letters than that.

  >>> short("english_to_german_100", 12)
  'english…n_100'
  """
  if len(name) <= length:
    return name
  end = length // 2 - 1
  return f"{name[:length - end]}…{name[-end:]}"


def number(value: float) -> str:
  """Returns a plotted number with six digits."""
  return f"{value:.6g}"


def _written(drawn: figure.Figure, title: str, said: Mapping[str, str], **how) -> str:
  buffer = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
    # Letters are written as text, so the reader's fonts count and not Matplotlib's.
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    drawn.savefig(buffer, format="svg", **how, metadata={
        **dict.fromkeys(("Date", "Creator", "Format", "Type")), **said})
  return _DRAWN.sub(_classed, buffer.getvalue())


def _classed(group: re.Match[str]) -> str:
  """Returns what was drawn of a curve with its class, and the texts of its marks."""
  texts = iter(json.loads(bytes.fromhex(group[2])) if group[2] else ())
  marks = group[3] if not group[2] else re.sub(
      r"(<use [^>]*)/>", lambda use: markupsafe.Markup(
          "{}><title>{}</title></use>").format(markupsafe.Markup(use[1]), next(texts)),
      group[3])
  return f'<g class="curve{group[1]}">{marks}</g>'


def _curve(name: str, part: str) -> str:
  return f"{name}, {part}" if part else name


class _Plain(ticker.LogFormatter):
  """Labels the ticks that Matplotlib would label, with plain numbers.

  Its own labels are formulas, which `_STYLE` would show as they are typed.
  """

  def __call__(self, x: float, pos: int | None = None) -> str:
    """Returns the label of a tick; "" if it has none."""
    return super().__call__(x, pos) and f"{x:,.10g}"


def _numbers(named: Mapping[str, Mapping[str, Points]]) -> list[list[str]]:
  """Returns rows of numbers, a header above those of the same steps."""
  alike: dict[tuple[float, ...], list[tuple[str, Points]]] = {}
  for name, group in named.items():
    for part, points in group.items():
      alike.setdefault(tuple(step for step, _ in points), []).append(
          (_curve(name, part), points))
  rows = []
  for steps, found in alike.items():
    for first in range(0, len(steps), _COLUMNS):
      part = slice(first, first + _COLUMNS)
      rows.append(["", *(f"step {step:g}" for step in steps[part])])
      rows += [[title, *(number(value) for _, value in points[part])]
               for title, points in found]
  return rows
