"""The outcome of one training of a study: scores, samples and cost."""

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
  return {**scores.metrics(), "seed": job.seed, "lr": trained.run.optim.lr,
          "step": trained.step,
          "validation_loss": min(loss for _, loss in validations(job)),
          "validations": validations(job),
          "still_improving": _improving(job, trained.is_drawn),
          "least_fall": "0.01 nats per step" if trained.is_drawn else "1%",
          "scores": scores, **samples.of(trained, texts["test"], fit, study.samples),
          **task_metrics.measure(study.metrics, trained, texts), **cost(job),
          **({"accounts": accounts.describe(
              job.run, job.workdir, trained, reader,
              max(line["step"] for line in metrics(job)), study.remembered)}
             if study.accounts else {})}


def metrics(job: jobs.Job) -> list[dict[str, Any]]:
  """Returns the lines of the metrics of a training."""
  return records.read_metrics(job.workdir)


def validations(job: jobs.Job) -> list[tuple[int, float]]:
  """Returns step and loss of each validation of a training."""
  return [(line["step"], line["loss"])
          for line in records.read_metrics(job.workdir)
          if line["split"] == "validation"]


def _improving(job: jobs.Job, drawn: bool) -> bool:
  """Whether validation loss still fell in the last fifth of the run.

  That is by over 1%, and of a model of drawings by over 0.01 nats per step.
  """
  curve = validations(job)
  until = 0.8 * job.run.train.steps
  # A run with few validations may have none that early, and its first one stands in.
  early = [loss for step, loss in curve if step <= until] or [curve[0][1]]
  unit = 1.0 if drawn else early[-1]
  return early[-1] - curve[-1][1] > _STILL_IMPROVING * unit


def cost(job: jobs.Job) -> dict[str, Any]:
  """Returns the number of tokens and the seconds of a training."""
  lines = [line for line in records.read_metrics(job.workdir)
           if line["split"] == "train"]
  # Metrics hold the rate and the seconds of each line, whose product is the whole
  # number of tokens that were trained on.
  return {"train_tokens": sum(round(line["tokens_per_second"] * line["seconds"])
                              for line in lines),
          "train_seconds": round(sum(line["seconds"] for line in lines), 1)}
