"""Losses of any documents under a run that has trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_gen import progress
from transfer_gen.data import pipeline
from transfer_gen.models import registry
from transfer_gen.run import trained as trained_lib
from transfer_gen.train import combined
from transfer_gen.train import score as score_lib

Scores = score_lib.Scores
_SPLIT = "evaluated"  # The only split of what is prepared here.


def score(
    trained: trained_lib.Trained, documents: Sequence[pipeline.Document],
    with_hits: bool = False,
) -> tuple[Scores, np.ndarray]:
  """Scores documents under a run.

  Args:
    trained: The run.
    documents: Pairs if the run was trained on pairs, and else texts. N of them.
    with_hits: Whether tokens that were the likeliest are counted as well.

  Returns:
    The losses, and f64[N], the number of target tokens of each document that the run
    holds for the likeliest; zeros if they were not asked for.

  Raises:
    errors.UserError: If the documents do not fit the run, or all are too long.
  """
  run: Any = trained.run
  registry.require_next_token(run.model)
  encoder = run.model if registry.encodes(run.model) else None
  data = pipeline.prepare(
      run.data, {_SPLIT: documents}, trained.tokenizer, {}, encoder)
  rows = sum(data.facts["splits"][_SPLIT]["rows"].values())
  functions = [combined.scoring(trained.model)]
  # A pass of its own, so that evaluating without this metric costs no more.
  functions += [combined.likeliest(trained.model)] if with_hits else []
  with progress.track("scoring", rows * len(functions), "row") as work:
    found = [score_lib.make_scorer(function)(
        trained.params, data, _SPLIT, run.train.rows, advance=work.advance)
             for function in functions]
  return found[0], found[1].nats if with_hits else np.zeros(len(documents))
