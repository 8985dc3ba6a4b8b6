"""What the trainings of a study draw, for a reader to look at."""

from collections.abc import Sequence
import dataclasses

from etils import epath
import numpy as np

from transfer_gen.data import notation
from transfer_gen.formats import whole
from transfer_gen.run import drawn
from transfer_gen.run import pictures
from transfer_gen.run import trained as trained_lib

NUMBER = 8  # Of drawings, for each sample that is asked for; and in a row.


def of(
    trained: trained_lib.Trained, given: Sequence[str], count: int, folder: epath.Path
) -> dict[str, str]:
  """Lets a training draw.

  Args:
    trained: The training.
    given: Drawings of the test split.
    count: Number of drawings.
    folder: Receives the pictures.

  Returns:
    Paths in the folder: `pictures`, what it drew, and `test_pictures`, the drawings of
    the split.
  """
  model, decoding = trained.run.model, trained.run.decoding
  # A plain autoencoder has nothing to draw from, and draws those of the split again.
  drawings = (
      drawn.after(trained, given, dataclasses.replace(decoding, num=1))
      if model.latent_width and not model.variational
      else drawn.freely(trained, dataclasses.replace(decoding, num=count)))
  return {"pictures": _write(folder, "samples.svg", drawings),
          "test_pictures": _write(
              folder, "samples_test.svg", [*map(notation.points_of, given)])}


def _write(
    folder: epath.Path, name: str, drawings: Sequence[np.ndarray]) -> str:
  path = folder / name
  whole.write_text(path, pictures.sheet(drawings, columns=NUMBER))
  return str(path)
