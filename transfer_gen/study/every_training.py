"""What is known of every training of a study, whether it was tested or not."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from etils import epath

from transfer_gen.config import codec
from transfer_gen.formats import whole
from transfer_gen.run import best as best_lib
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import logged
from transfer_gen.study import where_trained

COMPARED, TRIED, SOURCE = "compared", "tried", "source"


def role(
    job: jobs_lib.Job, tested: Sequence[jobs_lib.Job], sources: Collection[str]
) -> str:
  """Returns what a training is in a study.

  Args:
    job: The training.
    tested: The trainings that are compared.
    sources: Names of the runs that others start from and no pair compares.

  Returns:
    `compared`; `source`; or `tried`, if validation chose another learning rate.
  """
  if any(job.workdir == other.workdir for other in tested):
    return COMPARED
  return SOURCE if job.name in sources else TRIED


def described(
    found: Sequence[tuple[jobs_lib.Job, str]], tested: Sequence[jobs_lib.Job]
) -> dict[str, Any]:
  """Returns what a study says of its trainings, beside their results.

  Args:
    found: All trainings that have ended, with their roles.
    tested: Those that are compared.

  Returns:
    `trainings`, see `describe`; `environments`, see `where_trained.read`, of those that
    are compared or a source; and `data`, the names of the data sets that were read.
  """
  return {"trainings": [describe(*one) for one in found],
          "environments": where_trained.read(
              job for job, its_role in found if its_role != TRIED),
          "data": data_title(job.workdir for job in tested)}


def describe(job: jobs_lib.Job, its_role: str) -> dict[str, Any]:
  """Returns what is known of a training that has ended.

  Args:
    job: The training.
    its_role: What it is in the study, see `role`.

  Returns:
    `run`, its name; `seed`; `lr`; `fraction` of the training documents; `steps` that it
    took; `step`, the best of them; `validation_loss`, the lowest; `train_tokens` and
    `train_seconds`; `role`; and `workdir`.
  """
  # As it was trained: what the study leaves open was chosen.
  run, lines = codec.read_run(job.workdir), logged.metrics(job)
  validated = [line for line in lines if line["split"] == "validation"]
  best = best_lib.begin(run.train.metric)
  for line in validated:
    best.judge(line["step"], line)
  return {"run": job.name, "seed": job.seed, "lr": run.optim.lr,
          "fraction": run.data.fraction, "steps": max(line["step"] for line in lines),
          "step": best.step,
          "validation_loss": min(line["loss"] for line in validated), "role": its_role,
          "workdir": str(job.workdir), **logged.cost(job)}


def curves(
    found: Sequence[tuple[jobs_lib.Job, str]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Returns the lines of the metrics of trainings, by run and by seed.

  Args:
    found: Trainings with their roles. Those at rates that were not chosen are left out.
  """
  lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for job, its_role in found:
    if its_role != TRIED:
      lines.setdefault(job.name, {})[f"seed {job.seed}"] = logged.metrics(job)
  return lines


def data_title(workdirs: Iterable[epath.Path]) -> str:
  """Returns name, version, if any, and fingerprint of each data set that runs read."""
  title = lambda data: " ".join(map(str, filter(
      None, (data["name"], data.get("version"), data["fingerprint"][:16]))))
  return ", ".join(dict.fromkeys(
      whole.read_json(workdir / "data.json", title) for workdir in workdirs))
