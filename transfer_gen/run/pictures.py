"""Drawings as pictures, SVG, and in files that `data` reads again.

Axes: N points of a drawing.
"""

from collections.abc import Sequence
import html
import io
import json
import math

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.data import notation
from transfer_gen.formats import whole

SIZE = 200  # Width and height of a picture, in the unit of its coordinates.
_MARGIN = 12
_LABEL = 18  # Height of a line of text below a picture.
_STYLE = ('fill="none" stroke="#222" stroke-width="2" stroke-linecap="round"'
          ' stroke-linejoin="round"')


def svg(points: np.ndarray) -> str:
  """Returns a drawing f32[N, 3] as SVG, as large as fits into its box."""
  return _document(SIZE, SIZE, _paths(points))


def sheet(
    drawings: Sequence[np.ndarray], labels: Sequence[str] = (), columns: int = 0
) -> str:
  """Returns many drawings side by side as one SVG.

  Args:
    drawings: Points f32[N, 3] of each.
    labels: A text below each; none if empty.
    columns: Number of drawings in a row; 0 means as many as there are rows.
  """
  columns = columns or max(math.ceil(math.sqrt(len(drawings))), 1)
  height = SIZE + (_LABEL if labels else 0)
  parts = []
  for i, points in enumerate(drawings):
    x, y = i % columns * SIZE, i // columns * height
    label = ""
    if labels:
      label = (f'<text x="{SIZE // 2}" y="{SIZE + 12}" font-size="12" font-family='
               f'"sans-serif" text-anchor="middle">{html.escape(labels[i])}</text>')
    parts.append(f'<g transform="translate({x} {y})">{_paths(points)}{label}</g>')
  rows = max(math.ceil(len(drawings) / columns), 1)
  return _document(columns * SIZE, rows * height, "\n".join(parts))


def write(
    output: epath.PathLike, drawings: Sequence[np.ndarray], labels: Sequence[str] = (),
    columns: int = 0) -> None:
  """Writes drawings into a new folder: pictures, and their points.

  It holds `0000.svg` and so on, `sheet.svg` with all of them, `drawings.npz` with
  strokes f32[n points, 3] and offsets i64[n + 1], and `drawings.jsonl` with a `text`
  for each, see `data.notation`. `data.train` takes both of the last.

  Args:
    output: The folder.
    drawings: Points f32[N, 3] of each, at least one.
    labels: As of `sheet`.
    columns: As of `sheet`.

  Raises:
    errors.UserError: If something is there already, or cannot be written.
  """
  output = epath.Path(output)
  check(output)
  points, starts = notation.joined(drawings)
  buffer = io.BytesIO()
  np.savez_compressed(buffer, strokes=points, offsets=starts)
  with whole.folder(output) as folder:
    for i, one in enumerate(drawings):
      (folder / f"{i:04}.svg").write_text(svg(one))
    (folder / "sheet.svg").write_text(sheet(drawings, labels, columns))
    (folder / "drawings.npz").write_bytes(buffer.getvalue())
    (folder / "drawings.jsonl").write_text("".join(
        json.dumps({"text": notation.text(one), **(
            {"label": labels[i]} if labels else {})}) + "\n"
        for i, one in enumerate(drawings)))


def check(output: epath.PathLike) -> None:
  """Raises a `UserError` if something is there already, where a folder shall be."""
  if epath.Path(output).exists():
    raise errors.UserError(
        f"--output: {output} exists already, and a new folder is written for drawings."
        " Give another path.")


def _document(width: int, height: int, inside: str) -> str:
  return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
          f' viewBox="0 0 {width} {height}">\n'
          f'<rect width="{width}" height="{height}" fill="#fff"/>\n{inside}\n</svg>\n')


def _paths(points: np.ndarray) -> str:
  """Returns the lines of a drawing as one path inside of a picture's box."""
  lines = notation.lines_of(points)
  if not lines:
    return ""
  places = np.concatenate(lines)
  least, extent = places.min(0), np.ptp(places, axis=0)
  room = SIZE - 2 * _MARGIN
  factor = room / max(extent.max(), 1e-9) if extent.max() > 0 else 1.0
  # In the middle of the box, whichever side is the shorter one.
  shift = _MARGIN + (room - factor * extent) / 2
  parts = []
  for line in lines:
    fitted = (line - least) * factor + shift
    first, *rest = (f"{x:.2f} {y:.2f}" for x, y in fitted.tolist())
    # A line to where it begins is a dot, with round ends.
    parts.append(f"M{first}L{' '.join(rest or [first])}")
  return f'<path {_STYLE} d="{"".join(parts)}"/>'
