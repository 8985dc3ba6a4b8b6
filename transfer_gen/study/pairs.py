"""Chooses the learning rate of each run of a study, and its best run."""

from collections.abc import Sequence

from etils import epath
import numpy as np

from transfer_gen import best_link
from transfer_gen.metrics import measures
from transfer_gen.study import jobs
from transfer_gen.study import logged


def best_lr(tried: Sequence[jobs.Job]) -> float:
  """Returns the learning rate with the best validation, mean over seeds.

  Args:
    tried: Trainings of one run of a study; its `Train.metric` decides.
  """
  found = by_rate(tried)
  return min(found, key=lambda lr: found[lr])


def by_rate(tried: Sequence[jobs.Job]) -> dict[float, float]:
  """Returns the best validation of each learning rate, mean over seeds, low is good."""
  # A mean over seeds: the best rate of each single seed would fit the noise of that
  # seed.
  found: dict[float, list[float]] = {}
  for job in tried:
    found.setdefault(job.lr, []).append(_best(job, job.run.train.metric))
  return {lr: float(np.mean(values)) for lr, values in found.items()}


def connected(pairs: Sequence[tuple[str, str]], name: str) -> set[str]:
  """Returns a run and all that pairs compare it with, directly or through others."""
  found = {name}
  for _ in pairs:
    found |= {one for pair in pairs if found & {*pair} for one in pair}
  return found


def judged_by(tested: Sequence[jobs.Job]) -> str:
  """Returns the metric by which trainings of several runs are compared.

  It is their `Train.metric` if they all have the same one. A loss is compared in bits
  per byte, which unlike nats per token compare across tokenizers; drawings have none.
  """
  [metric, *others] = {job.run.train.metric for job in tested}
  if not others and metric != "loss":
    return metric
  of_text = all("bits_per_byte" in line for job in tested
                for line in logged.metrics(job) if line["split"] == "validation")
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
  comparable = connected(pairs, pairs[0][0])
  metric = judged_by(tested)
  best = min((job for job in tested if job.name in comparable),
             key=lambda job: _best(job, metric))
  best_link.write(workdir, best.workdir)
  return str(best.workdir.relative_to(workdir))


def _best(job: jobs.Job, metric: str) -> float:
  """Returns the best validation by a metric, with a sign so that low is good."""
  sign = -1 if measures.METRICS[metric].higher else 1
  values = np.array([sign * line[metric] for line in logged.metrics(job)
                     if line["split"] == "validation"])
  return float(np.nan_to_num(values, nan=np.inf).min())  # A NaN is never the best.
