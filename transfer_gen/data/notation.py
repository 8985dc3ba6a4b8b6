"""Drawings as texts: `dx dy pen` for each point, such as `3 -4 0 10 0 1`.

A drawing is then a document like any other: it is split, filtered, counted and compared
by its text. dx and dy lead to a point from the one before, y points down, and pen is 1
if the pen is lifted behind the point, else 0. The first point only says where the
drawing begins.

Axes: N points.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_gen import errors

_FORMS = (3, 5)  # dx, dy, and the pen as 1 number or as 3.
_ADVICE = "A drawing is `dx dy pen` for each point, where pen is 0 or 1."


def text(points: np.ndarray) -> str:
  """Returns the text of a drawing, f32[N, 3]; `points_of` returns the same numbers."""
  if np.array_equal(points, np.trunc(points)):
    return " ".join(map(str, points.astype(np.int64).reshape(-1).tolist()))
  # Nine digits distinguish all numbers of float32.
  return " ".join(f"{value:.9g}" for value in points.reshape(-1).tolist())


def points_of(drawing: str) -> np.ndarray:
  """Returns the points of a drawing's text, f32[N, 3].

  Raises:
    errors.UserError: If the text is no drawing.
  """
  try:
    values = np.array(drawing.split(), np.float32)
  except ValueError as error:
    raise errors.UserError(
        f"{drawing[:60]!r} is no drawing: it does not consist of numbers. {_ADVICE}"
    ) from error
  if len(values) % 3 or not len(values):
    raise errors.UserError(
        f"{drawing[:60]!r} is no drawing: it has {len(values)} numbers, which are not"
        f" three for each point. {_ADVICE}")
  return checked(values.reshape(-1, 3), repr(drawing[:60]))


def checked(points: np.ndarray, where: str) -> np.ndarray:
  """Returns the points of a drawing as f32[N, 3].

  Args:
    points: Numbers [N, 3]; or [N, 5], in which three numbers say that the pen is down
      behind a point, that it is up, or that the drawing has ended before it.
    where: The drawing, for messages.

  Raises:
    errors.UserError: If it has no points, another shape, numbers that are not finite,
      or states of the pen that are none.
  """
  if points.ndim != 2 or points.shape[1] not in _FORMS:
    raise errors.UserError(
        f"{where}: an array of shape {points.shape}, and a drawing is (N, 3), which is"
        " dx, dy and whether the pen is lifted, or (N, 5), which is dx, dy and the pen"
        " as three numbers.")
  with np.errstate(over="ignore"):  # What is too large becomes infinite.
    points = points.astype(np.float32)
  if not np.isfinite(points).all():
    bad = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
    raise errors.UserError(
        f"{where}: point {bad + 1} holds {points[bad].tolist()}, which are not all"
        " finite float32 numbers. Correct or remove the drawing.")
  pen = points[:, 2:]
  if not ((pen == 0) | (pen == 1)).all() or (
      pen.shape[1] == 3 and not (pen.sum(1) == 1).all()):
    raise errors.UserError(
        f"{where}: the state of its pen is not 0 or 1 everywhere"
        f"{', one of three' if pen.shape[1] == 3 else ''}. Correct the drawing.")
  if pen.shape[1] == 3:
    ended = np.flatnonzero(pen[:, 2])
    points = points[:ended[0] if len(ended) else None, [0, 1, 3]]
  if not len(points):
    raise errors.UserError(f"{where}: it has no points. Remove it.")
  return points


def of_lines(lines: Any, where: str) -> np.ndarray:
  """Returns the points f32[N, 3] of a drawing in the form of QuickDraw.

  Args:
    lines: A list of lines, each a list of the x and a list of the y of its points.
    where: The drawing, for messages.

  Raises:
    errors.UserError: If it is something else.
  """
  try:
    # Raw files have a third list, of times.
    parts = [np.stack([np.asarray(line[side], np.float64) for side in (0, 1)], axis=1)
             for line in lines]
    if not all(part.ndim == 2 and len(part) for part in parts) or not parts:
      raise ValueError("a line has no points")
    if not all(np.isfinite(part).all() for part in parts):
      raise ValueError("a number is not finite")
  except (TypeError, ValueError, LookupError, OverflowError) as error:
    raise errors.UserError(
        f"{where}: `drawing` must be a list of lines, each [[x, ...], [y, ...]] of"
        f" numbers ({' '.join(str(error).split())[:80]}).") from error
  places = np.concatenate(parts)
  points = np.zeros((len(places), 3))
  points[1:, :2] = np.diff(places, axis=0)
  points[np.cumsum([len(part) for part in parts]) - 1, 2] = 1
  return checked(points, where)


def lines_of(points: np.ndarray) -> list[np.ndarray]:
  """Returns the lines of a drawing f32[N, 3], each as places f64[K, 2] from the first.

  A line of one point is a dot.
  """
  places = np.cumsum(points[:, :2].astype(np.float64), axis=0)
  places -= places[:1]
  ends = np.flatnonzero(points[:, 2] == 1) + 1
  return [part for part in np.split(places, ends) if len(part)]


def joined(drawings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Returns all points of drawings f32[N, 3], and where each begins, with the end."""
  ends = np.cumsum([0, *map(len, drawings)]).astype(np.int64)
  return np.concatenate([np.zeros((0, 3), np.float32), *drawings]), ends
