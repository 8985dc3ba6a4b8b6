"""Compares the runs of a pair, document by document."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import best_link
from transfer_gen.metrics import measures
from transfer_gen.study import jobs
from transfer_gen.study import outcome
from transfer_gen.study import task_metrics
from transfer_gen.train import score as score_lib


def best_lr(tried: list[jobs.Job]) -> float:
  """Returns the learning rate with the best validation, mean over seeds.

  Args:
    tried: Trainings of one run of a study; its `Train.metric` decides.
  """
  # A mean over seeds: the best rate of each single seed would fit the noise of that
  # seed.
  found: dict[float, list[float]] = {}
  for job in tried:
    found.setdefault(job.lr, []).append(_best(job, job.run.train.metric))
  return min(found, key=lambda lr: np.mean(found[lr]))


def judged_by(tested: Sequence[jobs.Job]) -> str:
  """Returns the metric by which trainings of several runs are compared.

  It is their `Train.metric` if they all have the same one. A loss is compared in bits
  per byte, which unlike nats per token compare across tokenizers; drawings have none.
  """
  [metric, *others] = {job.run.train.metric for job in tested}
  if not others and metric != "loss":
    return metric
  of_text = all("bits_per_byte" in line for job in tested
                for line in outcome.metrics(job) if line["split"] == "validation")
  return "bits_per_byte" if of_text else "loss"


def mark_best(
    pairs: Sequence[tuple[str, str]], tested: Sequence[jobs.Job],
    workdir: epath.PathLike
) -> str:
  """Makes the link `best` in a study's workdir, and returns what it names.

  Args:
    pairs: The pairs of the study.
    tested: Its trainings that were scored on the test split. Those count that the first
      pair, or a pair that shares a run with it and so on, compares: they are scored on
      the same texts. The best is the one by `judged_by` in validation.
    workdir: Workdir of the study.

  Returns:
    The path of the best training's workdir in that of the study.
  """
  comparable: set[str] = set(pairs[0])
  for _ in pairs:
    comparable |= {name for pair in pairs if comparable & {*pair} for name in pair}
  metric = judged_by(tested)
  best = min((job for job in tested if job.name in comparable),
             key=lambda job: _best(job, metric))
  best_link.write(workdir, best.workdir)
  return str(best.workdir.relative_to(workdir))


def _best(job: jobs.Job, metric: str) -> float:
  """Returns the best validation by a metric, with a sign so that low is good."""
  sign = -1 if measures.METRICS[metric].higher else 1
  values = np.array([sign * line[metric] for line in outcome.metrics(job)
                     if line["split"] == "validation"])
  return float(np.nan_to_num(values, nan=np.inf).min())  # A NaN is never the best.


def compare(
    pair: tuple[str, str], results: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
  """Compares the first run of a pair with the second, documents pooled over seeds."""
  treated, control = (results[name] for name in pair)
  first, second = (
      _pool([run["scores"] for run in runs]) for runs in (treated, control))
  return {
      "treated": pair[0], "control": pair[1],
      **score_lib.paired_difference(first, second),
      "seeds_ahead": sum(t["loss"] < c["loss"] for t, c in zip(treated, control)),
      "control_still_improving": sum(run["still_improving"] for run in control),
      "least_fall": control[0]["least_fall"],
      "reached": [_reached(t, c) for t, c in zip(treated, control)],
      "metrics": task_metrics.compare(treated, control),
  }


def summary(
    results: Mapping[str, Sequence[dict[str, Any]]], first: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what a study's summary says of scores.

  Args:
    results: What `outcome.test` returned for each seed, by the name of the run.
    first: What `compare` returned for the first pair.
  """
  return {
      **{f"{name}_test_loss": float(np.mean([run["loss"] for run in runs]))
         for name, runs in results.items()},
      "gain_nats_per_token": first["gain"], "gain_low": first["low"],
      "gain_high": first["high"], "seeds_ahead": first["seeds_ahead"],
      "reached": first["reached"], **task_metrics.summary(results, first)}


def _reached(treated: dict[str, Any], control: dict[str, Any]) -> int | None:
  """First validated step at which the control's best validation loss was reached."""
  return next((step for step, loss in treated["validations"]
               if loss <= control["validation_loss"]), None)


def _pool(scores: list[score_lib.Scores]) -> score_lib.Scores:
  # Sums over seeds keep one entry per document. Seeds are not further documents, so the
  # interval must not shrink with their number.
  return score_lib.Scores(
      nats=np.sum([s.nats for s in scores], 0),
      tokens=np.sum([s.tokens for s in scores], 0),
      text_bytes=np.sum([s.text_bytes for s in scores], 0))
