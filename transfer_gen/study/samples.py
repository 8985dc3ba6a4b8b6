"""What the trainings of a study write or draw, for a reader to look at."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib
from transfer_gen.run import writing
from transfer_gen.study import drawn_samples

_ANSWER = 48  # Largest number of tokens of a sample.


def of(
    trained: trained_lib.Trained, texts: Sequence[writing.Document],
    fit: np.ndarray, count: int, seed: int, folder: epath.Path,
    events: epath.Path | None = None) -> dict[str, Any]:
  """Lets a training continue prompts of the test split, or draw.

  Args:
    trained: The training.
    texts: The documents of the split.
    fit: Indices of those that have a text that fits into a row.
    count: Largest number of prompts; eight drawings for each.
    seed: Which documents are drawn; runs with the same documents get the same ones.
    folder: Receives samples and pictures.
    events: Folder of TensorBoard's events, which receives texts as well.

  Returns:
    `samples`: prompt, text and reference of each; and what `drawn_samples.of` returns
    of a model of drawings.
  """
  if not trained.is_drawn:
    written = _written(trained, chosen(texts, fit, count, seed), folder)
    if events is not None and written:
      records.write_sample_events(events, trained.step, written)
    return {"samples": written}
  if not count:
    return {"samples": []}
  given = chosen(texts, fit, drawn_samples.NUMBER * count, seed)
  return {"samples": [], **drawn_samples.of(
      trained, [document.target for document in given], drawn_samples.NUMBER * count,
      folder)}


def chosen(
    texts: Sequence[writing.Document], fit: np.ndarray, count: int, seed: int
) -> list[writing.Document]:
  """Draws documents at random, each text once, and none that is blank.

  Args:
    texts: The documents, N.
    fit: Indices of those that may be drawn.
    count: How many; fewer if there are not so many. What leaves something to write
      comes first.
    seed: A seed gives the same order of N documents, whichever of them fit.
  """
  usable = {*fit.tolist()}
  found: dict[tuple[str, str], writing.Document] = {}
  for i in np.random.default_rng(seed).permutation(len(texts)).tolist():
    if i in usable and texts[i].target.strip():
      found.setdefault((texts[i].input, texts[i].target), texts[i])
  ordered = sorted(found.values(), key=lambda document: not writing.prompt(document)[1])
  return ordered[:count]


def _prompt(
    document: writing.Document, reverse: bool) -> tuple[str, tuple[str, ...]]:
  """As `writing.prompt`, but a short text is cut in its middle, and not left whole."""
  given, right = writing.prompt(document, reverse)
  if right:
    return given, right
  half = len(given) // 2 if reverse else (len(given) + 1) // 2
  parts = given[:half], given[half:]
  given, rest = reversed(parts) if reverse else parts
  return given, (rest,) if rest else ()


def _written(trained, documents, folder) -> list[dict[str, str]]:
  """Continues prompts; what is too long for the model is cut."""
  pairs = [_prompt(document, trained.run.data.reverse) for document in documents]
  decoding = dataclasses.replace(
      trained.run.decoding, num=1, too_long="cut",
      max_tokens=trained.run.decoding.max_tokens or _ANSWER)
  prompts = [prompt for prompt, _ in pairs]
  answers = [texts[0] for texts in trained.answers(prompts, decoding).texts]
  return records.write_samples(
      folder, prompts, answers, reference=[
          "".join(right[:1]) for _, right in pairs])
