"""Validation during training: the loss, and a metric of written texts where asked."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp

from transfer_gen.data import pipeline
from transfer_gen.metrics import measures
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import writing
from transfer_gen.train import combined
from transfer_gen.train import score as score_lib

_Params = Mapping[str, jax.Array]
Validate = Callable[[_Params], dict[str, float]]


def make(
    assembled: assembled_lib.Assembled, data: pipeline.Prepared,
    put: Callable[[pipeline.Batch], Any]) -> Validate:
  """Returns a function from params to the metrics of the validation split, by name.

  Args:
    assembled: The run.
    data: Its tokenized splits, with stored features if there are any.
    put: Moves a whole batch from the host to the devices.
  """
  run = assembled.run
  # The loss is the plain cross-entropy whatever a run minimizes, so that runs with
  # different objectives can be compared.
  score = score_lib.make_scorer(combined.validating(
      assembled.model, run.objective, assembled.beginning))
  # Under pmap, validation runs on one device with params that the runner has taken from
  # it, so its batches must not be split over devices.
  place = put if run.parallel.mode == "jit" else lambda batch: jax.tree.map(
      jnp.asarray, batch)

  # Of other texts no features are stored, so this runs all layers.
  score_all = score_lib.make_scorer(
      combined.validating(assembled.model, run.objective))
  remembered = assembled.inputs.remembered

  def validate(params: _Params) -> dict[str, float]:
    scores = score(params, data, "validation", run.train.rows, place).metrics()
    if remembered is not None:
      scores["remembered"] = score_all(
          params, remembered, "test", run.train.rows, place).across_tokens
    if run.train.metric not in scores:
      scores[run.train.metric] = _of_texts(assembled, params)
    return scores

  return validate


# The first documents each time, so that validations of one run can be compared.
def _of_texts(assembled: assembled_lib.Assembled, params: _Params) -> float:
  """Returns the run's metric of what the model writes for validation."""
  run = assembled.run
  documents = assembled.inputs.validation[:run.train.metric_documents or None]
  written = writing.write(
      writing.TextModel(
          module=assembled.model, params=params, tokenizer=assembled.data.tokenizer,
          data=run.data, model=run.model), documents, run.decoding)
  found = measures.measure([run.train.metric], measures.Evidence(
      outputs=written.outputs, references=written.references))
  return found[run.train.metric].score()
