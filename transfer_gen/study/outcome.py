"""The outcome of one training of a study: scores, samples and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_gen.run import trained as trained_lib
from transfer_gen.study import accounts
from transfer_gen.study import jobs
from transfer_gen.study import logged
from transfer_gen.study import samples
from transfer_gen.study import task_metrics

# A control that was cut while it improved makes a gain look larger than it is. This is
# the fall of the validation loss over the last fifth: a share of it, and in nats of
# drawings, whose offsets have densities: their loss may be 0 or negative.
_STILL_IMPROVING = 0.01


def test(job: jobs.Job, reader: trained_lib.Reader) -> dict[str, Any]:
  """Scores the best checkpoint of a training on the test split; see `logged.scores`."""
  trained = trained_lib.open(job.workdir)
  data, _ = trained.data(reader)
  scores, curve = logged.scores(job, trained, data), logged.validations(job)
  return {**scores.metrics(), "seed": job.seed, "lr": trained.run.optim.lr,
          "step": trained.step,
          "validation_loss": min(line["loss"] for line in curve),
          "validations": curve,
          "still_improving": _improving(
              curve, job.run.train.steps, trained.is_drawn),
          "least_fall": "0.01 nats per step" if trained.is_drawn else "1%",
          "train_data": {unit: data.facts["splits"]["train"][unit]
                         for unit in ("bytes", "tokens")},
          "scores": scores, "samples": [], **logged.cost(job)}


def with_metrics(
    job: jobs.Job, found: Mapping[str, Any], asked: Sequence[str],
    reader: trained_lib.Reader) -> dict[str, Any]:
  """Returns an outcome with metrics of texts; see `task_metrics.measure`."""
  trained = trained_lib.open(job.workdir)
  return {**found, **task_metrics.measure(asked, trained, trained.data(reader)[1])}


def with_accounts(
    job: jobs.Job, found: Mapping[str, Any], reader: trained_lib.Reader
) -> dict[str, Any]:
  """Returns an outcome with what the training cost and forgot; see `accounts`."""
  described = _accounts(job, trained_lib.open(job.workdir), reader)
  searched = described["search_gflops"]
  curve = [{**line, "gflops": gflops + searched} for line, gflops in zip(
      found["validations"], described.pop("gflops_at"))]
  return {**found, "validations": curve, "accounts": described}


def with_samples(
    job: jobs.Job, found: Mapping[str, Any], count: int, seed: int,
    reader: trained_lib.Reader, folder: Any = None) -> dict[str, Any]:
  """Returns an outcome with what the training writes or draws; see `samples.of`.

  Its workdir receives the samples if `folder` is None.
  """
  trained = trained_lib.open(job.workdir)
  _, texts = trained.data(reader)
  fit = np.flatnonzero(found["scores"].tokens)  # Others were dropped.
  return {**found, **samples.of(
      trained, texts["test"], fit, count, seed, folder or job.workdir, job.events)}


def source_accounts(job: jobs.Job, reader: trained_lib.Reader) -> dict[str, Any]:
  """Returns the accounts of a training that is only a source; see `accounts`."""
  found = _accounts(job, trained_lib.open(job.workdir), reader)
  del found["gflops_at"]
  return found


def _accounts(job, trained, reader) -> dict[str, Any]:
  """The accounts of a training, at the steps of its validations and at its last one."""
  lines = logged.metrics(job)
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
