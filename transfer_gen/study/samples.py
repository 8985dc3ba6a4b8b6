"""What the trainings of a study write or draw, for a reader to look at."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from transfer_gen.formats import whole
from transfer_gen.run import drawn
from transfer_gen.run import pictures
from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib
from transfer_gen.run import writing

_ANSWER = 48  # Largest number of tokens of a sample.
_DRAWINGS = 8  # For each sample that is asked for.


def of(
    trained: trained_lib.Trained, texts: Sequence[writing.Document],
    fit: np.ndarray, count: int) -> dict[str, Any]:
  """Lets a training continue prompts of the test split, or draw.

  Args:
    trained: The training, whose workdir receives the samples.
    texts: The documents of the split.
    fit: Indices of those that have a text that fits into a row.
    count: Number of prompts; eight drawings for each.

  Returns:
    `samples`: prompt, text and reference of each; and of a model of drawings
    `pictures`, the path of a picture in its workdir.
  """
  if not trained.is_drawn:
    pairs = [writing.prompt(texts[i]) for i in fit[:count]]
    return {"samples": _written(trained, pairs)}
  model = trained.run.model
  if not count or (model.latent_width and not model.variational):
    return {"samples": []}
  found = drawn.freely(
      trained, dataclasses.replace(trained.run.decoding, num=_DRAWINGS * count))
  path = trained.workdir / "samples.svg"
  whole.write_text(path, pictures.sheet(found, columns=_DRAWINGS))
  return {"samples": [], "pictures": str(path)}


def _written(trained, pairs) -> list[dict[str, str]]:
  """Continues prompts; what is too long for the model is cut."""
  decoding = dataclasses.replace(
      trained.run.decoding, num=1, too_long="cut",
      max_tokens=trained.run.decoding.max_tokens or _ANSWER)
  prompts = [prompt for prompt, _ in pairs]
  answers = [texts[0] for texts in trained.answers(prompts, decoding).texts]
  return records.write_samples(
      trained.workdir, prompts, answers, reference=[
          "".join(right[:1]) for _, right in pairs])
