"""The outcome of one training of a study: scores, samples and cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import accounts
from transfer_gen.study import jobs
from transfer_gen.study import samples
from transfer_gen.study import task_metrics

# A control that was cut while it improved makes a gain look larger than it is. This is
# the fall of the validation loss over the last fifth: a share of it, and in nats of
# drawings, whose offsets have densities: their loss may be 0 or negative.
_STILL_IMPROVING = 0.01


def test(
    job: jobs.Job, study: jobs.Study, reader: trained_lib.Reader
) -> dict[str, Any]:
  """Scores the best checkpoint of a training on the test split, and samples from it."""
  trained = trained_lib.open(job.workdir)
  data, texts = trained.data(reader)
  scores = trained.score(data, "test")
  records.write_scores(job.workdir, "test", trained.step, scores)
  fit = np.flatnonzero(data.document_bytes("test"))  # Others were dropped.
  curve = _progress(job)
  found = {**scores.metrics(), "seed": job.seed, "lr": trained.run.optim.lr,
           "step": trained.step,
           "validation_loss": min(line["loss"] for line in curve),
           "validations": curve,
           "still_improving": _improving(
               curve, job.run.train.steps, trained.is_drawn),
           "least_fall": "0.01 nats per step" if trained.is_drawn else "1%",
           "train_data": {unit: data.facts["splits"]["train"][unit]
                          for unit in ("bytes", "tokens")},
           "scores": scores, **samples.of(trained, texts["test"], fit, study.samples),
           **task_metrics.measure(study.metrics, trained, texts), **_cost(job)}
  if study.accounts:
    found["accounts"] = _accounts(job, trained, reader)
    for line, gflops in zip(curve, found["accounts"].pop("gflops_at")):
      line["gflops"] = gflops + found["accounts"]["search_gflops"]
  return found


def source(
    job: jobs.Job, study: jobs.Study, reader: trained_lib.Reader) -> dict[str, Any]:
  """Returns what a training cost that is only a source.

  `train_tokens`, `train_seconds` and, if the study has them, its `accounts`.
  """
  if not study.accounts:
    return _cost(job)
  found = _accounts(job, trained_lib.open(job.workdir), reader)
  del found["gflops_at"]
  return {**_cost(job), "accounts": found}


def metrics(job: jobs.Job) -> list[dict[str, Any]]:
  """Returns the lines of the metrics of a training."""
  return records.read_metrics(job.workdir)


def _progress(job: jobs.Job) -> list[dict[str, Any]]:
  """Returns the lines of the validations of a training, with the tokens up to each."""
  tokens, found = 0, []
  # Every validation comes right after a line of training.
  for line in metrics(job):
    if line["split"] == "train":
      tokens += _tokens(line)
    elif line["split"] == "validation":
      found.append({**line, "tokens": tokens})
  return found


def _accounts(job, trained, reader) -> dict[str, Any]:
  """The accounts of a training, at the steps of its validations and at its last one."""
  lines = metrics(job)
  steps = [*(line["step"] for line in lines if line["split"] == "validation"),
           max(line["step"] for line in lines)]
  return accounts.describe(job.run, job.workdir, trained, reader, steps)


def _improving(curve: Sequence[dict[str, Any]], steps: int, drawn: bool) -> bool:
  """Whether validation loss still fell in the last fifth of a run of so many steps.

  That is by over 1%, and of a model of drawings by over 0.01 nats per step.
  """
  # A run with few validations may have none that early, and its first one stands in.
  early = [line["loss"] for line in curve if line["step"] <= 0.8 * steps]
  before = early[-1] if early else curve[0]["loss"]
  unit = 1.0 if drawn else before
  return before - curve[-1]["loss"] > _STILL_IMPROVING * unit


def _cost(job: jobs.Job) -> dict[str, Any]:
  """Returns the number of tokens and the seconds of a training."""
  lines = [line for line in metrics(job) if line["split"] == "train"]
  return {"train_tokens": sum(map(_tokens, lines)),
          "train_seconds": round(sum(line["seconds"] for line in lines), 1)}


# Metrics hold the rate and the seconds of each line, whose product is the whole number
# of tokens that were trained on.
def _tokens(line: dict[str, Any]) -> int:
  return round(line["tokens_per_second"] * line["seconds"])
