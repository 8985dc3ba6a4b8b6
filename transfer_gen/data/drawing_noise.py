"""Drawings are stretched and lose points, anew in each epoch (Ha and Eck, 2018).

All that is drawn for a row comes from a generator of its own, whose key is made of the
seed, the text of the drawing and the epoch, as in `noise`.

Axes: N points of a drawing, B rows of a batch.
"""

import dataclasses

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import rows as rows_lib

_DRAWN = 3  # First number of keys; `noise` has others.


@dataclasses.dataclass(frozen=True)
class DrawingNoise:
  """How the rows of drawings are changed.

  Attributes:
    config: `stretch` and `drop_points` are read.
    end: State of the pen behind the end of a drawing.
  """
  config: config_lib.Corrupt
  end: int

  def __post_init__(self):
    if self.config.noise or self.config.word_dropout:
      raise errors.UserError(
          "data.corrupt: noise and word_dropout are for texts of tokens, and these are"
          " drawings. Leave them out, or set data.corrupt.stretch and drop_points.")

  def batch(self, rows: rows_lib.Rows, seed: int, picked: np.ndarray) -> rows_lib.Batch:
    """Returns rows as training reads them.

    Args:
      rows: The rows of one length.
      seed: Seed of the run.
      picked: i64[B, 2], the epoch and the number of each row.
    """
    chosen = picked[:, 1]
    # Indexing by an array copies, so the rows themselves stay.
    changed = dataclasses.replace(
        rows, inputs=rows.inputs[chosen], targets=rows.targets[chosen],
        documents=rows.documents[chosen], values=rows.values[chosen],
        points=rows.points[chosen], draws=rows.draws[chosen])
    for i, (epoch, row) in enumerate(picked.tolist()):
      count = int(rows.points[row])
      values, pens = self.changed(
          rows.values[row, :count], rows.targets[row, :count],
          np.random.default_rng((_DRAWN, seed, int(rows.draws[row]), epoch)))
      left = len(pens)
      changed.targets[i, left:count], changed.values[i, left:count] = self.end, 0
      changed.values[i, :left], changed.targets[i, :left] = values, pens
      changed.inputs[i, 1:] = changed.targets[i, :-1]
      changed.points[i] = left
    return changed.batch(np.arange(len(picked)))

  def changed(
      self, values: np.ndarray, pens: np.ndarray, generator: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns a changed drawing.

    A point may go if it lies within a line: the line then runs straight from the point
    before to the one behind.

    Args:
      values: f32[N, 2], its offsets.
      pens: i32[N], 0 where the pen is down behind a point.
      generator: What is drawn.
    """
    ends = np.ones(len(pens), bool)
    ends[1:-1] = (pens[:-2] != 0) | (pens[1:-1] != 0)
    kept = ends | (generator.random(len(pens)) >= self.config.drop_points)
    places = np.cumsum(values, axis=0, dtype=np.float64)[kept]
    offsets = np.diff(places, axis=0, prepend=np.zeros((1, 2)))
    factors = 1 + self.config.stretch * generator.uniform(-1, 1, 2)
    return (offsets * factors[None]).astype(np.float32), pens[kept]
