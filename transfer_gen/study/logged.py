"""What a training left in its workdir: its lines of metrics, its cost, its scores."""

from typing import Any

from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import decision
from transfer_gen.study import jobs


def metrics(job: jobs.Job) -> list[dict[str, Any]]:
  """Returns the lines of the metrics of a training."""
  return records.read_metrics(job.workdir)


def validations(job: jobs.Job) -> list[dict[str, Any]]:
  """Returns the lines of the validations of a training, with the tokens up to each."""
  tokens, found = 0, []
  # Every validation comes right after a line of training.
  for line in metrics(job):
    if line["split"] == "train":
      tokens += _tokens(line)
    elif line["split"] == "validation":
      found.append({**line, "tokens": tokens})
  return found


def cost(job: jobs.Job) -> dict[str, Any]:
  """Returns the tokens of a training, and its seconds with those of a search."""
  lines = [line for line in metrics(job) if line["split"] == "train"]
  seconds = sum(line["seconds"] for line in lines)
  searched = decision.read(job.workdir).get("seconds", 0.0)
  return {"train_tokens": sum(map(_tokens, lines)),
          "train_seconds": round(seconds + searched, 1)}


def scores(
    job: jobs.Job, trained: trained_lib.Trained, data: trained_lib.pipeline.Prepared
) -> trained_lib.evaluate.Scores:
  """Scores a checkpoint of a training on the test split.

  What was scored by an earlier call is read from the workdir.
  """
  found = records.read_scores(job.workdir, "test", trained.step)
  if found is None:
    found = trained.score(data, "test")
    records.write_scores(job.workdir, "test", trained.step, found,
                         {"terms": dict(found.terms)})
  return found


# Metrics hold the rate and the seconds of each line, whose product is the whole number
# of tokens that were trained on.
def _tokens(line: dict[str, Any]) -> int:
  return round(line["tokens_per_second"] * line["seconds"])
