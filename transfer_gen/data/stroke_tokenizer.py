"""States of a pen as tokens, and the rows of drawings.

Axes: N rows, T points.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
import zlib

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import drawing_noise
from transfer_gen.data import notation
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import tokenizer_kinds

KIND = "strokes"
DOWN, UP, END = range(3)
_LEAST = 1e-20  # Of scales: squares of what is divided by it must stay finite.


class Strokes:
  """The tokenizer of drawings: one token for each point, the state of the pen.

  Offsets are no tokens: `rows` puts them beside the tokens, divided by `scale`.

  Attributes:
    scale: Standard deviation of the offsets of the drawings that it was made from.
  """

  def __init__(self, scale: float):
    if not (isinstance(scale, (int, float)) and _LEAST < scale < 1 / _LEAST):
      raise errors.UserError(
          f"the scale of the strokes is {scale}, and must be a positive number.")
    self.scale = float(scale)
    self.special: dict[str, int] = {}
    self.roles = {"pad": END, "eos": END}
    self.tokens = (b"down ", b"up ", b"")
    self.size = len(self.tokens)

  @property
  def facts(self) -> dict[str, Any]:
    """What data.json says of it beside its size and roles."""
    return {"scale": self.scale}

  def encode(self, text: str) -> list[int]:
    """Returns the state of the pen behind each point; raises as `Tokenizer.encode`."""
    return notation.points_of(text)[:, 2].astype(int).tolist()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the same of many drawings."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the names of states of the pen, which are all that ids say."""
    return "".join(self.tokens[i].decode() for i in ids if i < END)

  def save(self, folder: epath.Path) -> None:
    """Writes the tokenizer to a folder that `tokenizers.load` reads."""
    tokenizer_kinds.write_kind(folder, {"kind": KIND, "scale": self.scale})

  def fit(
      self, drawings: rows_lib.Texts, config: config_lib.Data
  ) -> tuple[list[np.ndarray], int]:
    """Cuts drawings, i32[points] each, as `config.too_long` says.

    Returns:
      The drawings, and how many were cut.

    Raises:
      errors.UserError: If drawings are too long and the config refuses such; or if the
        config asks for what only texts can be.
    """
    if config.input_field or config.packing != "separate":
      raise errors.UserError(
          "data: tokenizer.kind=strokes reads drawings, which are neither pairs nor"
          " joined. Leave data.input_field empty and data.packing=separate.")
    long = sum(len(one) > config.length for one in drawings)
    if long and config.too_long == "refuse":
      raise errors.UserError(
          f"data: {long} of {len(drawings)} drawings have more than"
          f" data.length={config.length} points, the longest"
          f" {max(map(len, drawings))}. Raise data.length, or set data.too_long to drop"
          " or cut.")
    if config.too_long != "cut":
      return list(drawings), 0
    return [one[:config.length] for one in drawings], long

  def noise(self, corrupt: config_lib.Corrupt) -> drawing_noise.DrawingNoise:
    """Returns how training changes the rows of drawings.

    Raises:
      errors.UserError: If the config asks for what can be done to texts alone.
    """
    return drawing_noise.DrawingNoise(corrupt, END)

  def rows(
      self, texts: Sequence[str], length: int, counts: Sequence[int]
  ) -> tuple[list[rows_lib.Rows], np.ndarray]:
    """Lays out each drawing as a row, padded behind its end.

    Its end is a state of the pen that is predicted at every position behind the last
    point (Ha and Eck, 2018, equation 9), so that all T positions of a row count.

    Args:
      texts: The drawings.
      length: T.
      counts: Number of points of each that are read.

    Returns:
      Rows for one length, and bool[N], which of the drawings they contain.
    """
    kept = np.asarray(counts) <= length
    shape = (int(kept.sum()), length)
    rows = rows_lib.Rows(
        inputs=np.full(shape, END, np.int32), targets=np.full(shape, END, np.int32),
        documents=np.repeat(np.flatnonzero(kept)[:, None], length, 1).astype(np.int32),
        values=np.zeros((*shape, 2), np.float32), points=np.zeros(shape[0], np.int32),
        draws=np.zeros(shape[0], np.uint32))
    for row, i in enumerate(np.flatnonzero(kept).tolist()):
      points = self.scaled(texts[i])[:counts[i]]
      rows.values[row, :len(points)] = points[:, :2]
      rows.targets[row, :len(points)] = points[:, 2]
      rows.points[row] = len(points)
      # Of its text alone, so that neither its place nor its batch changes the draw.
      rows.draws[row] = zlib.crc32(" ".join(texts[i].split()).encode())
    rows.inputs[:, 0] = DOWN
    rows.inputs[:, 1:] = rows.targets[:, :-1]
    return [rows], kept

  def scaled(self, text: str) -> np.ndarray:
    """Returns the points f32[N, 3] of a drawing, with offsets divided by the scale.

    Raises:
      errors.UserError: If they are too large for the arithmetic of models.
    """
    points = notation.points_of(text)
    points[:, :2] /= np.float32(self.scale)
    if np.abs(points[:, :2]).max() > 1e6:
      raise errors.UserError(
          f"{text[:60]!r}: an offset is more than a million times as large as"
          f" {self.scale:g}, the standard deviation of the training drawings. Correct"
          " or remove the drawing.")
    return points


def build(texts: Iterable[str]) -> Strokes:
  """Returns the tokenizer of drawings, scaled by those given.

  Raises:
    errors.UserError: If a text is no drawing, or all offsets are equal.
  """
  drawings = [points[:, :2] for points in _numbered(texts)]
  scale = float(np.std(np.concatenate(drawings), dtype=np.float64))
  if not scale > _LEAST:
    raise errors.UserError(
        "data.train: all offsets of all drawings are equal, so that they have no"
        " scale. Give drawings with lines.")
  return Strokes(scale)


def _numbered(texts: Iterable[str]) -> Iterator[np.ndarray]:
  """Yields the points of training drawings; an error says which of them it is about."""
  for i, text in enumerate(texts):
    try:
      yield notation.points_of(text)
    except errors.UserError as error:
      raise errors.UserError(
          f"data.train, drawing {i} (counted from 0): {error}") from error


def is_drawn(tokenizer: Any) -> bool:
  """Returns whether a tokenizer is that of drawings."""
  return isinstance(tokenizer, Strokes)
