"""What a treated run of a study had of its source, before training and after it."""

from typing import Any

from transfer_gen.study import auto
from transfer_gen.study import evidence
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import layer_moves

_trained = evidence.trained_lib


def of_job(
    job: jobs_lib.Job, reader: _trained.Reader, attempt: evidence.Attempt
) -> dict[str, Any]:
  """Measures the transfer of a training that has ended.

  Args:
    job: The training.
    reader: Has read the data of the study's runs.
    attempt: As of `evidence.measure`.

  Returns:
    `before`, see `evidence.measure`; `moved`, see `layer_moves.measure`; each is None
    if it failed. If the run reads no leaf of a source, `absent` says so instead.
  """
  if not job.run.all_sources():
    return {"absent": "it has no source"}
  assembled = evidence.initial.assemble.assemble(
      reader.read(auto.decided(job.run, job.workdir), job.workdir))
  if not any(row.sources for row in assembled.rows):
    return {"absent": "it reads no leaf of its source"}
  titled = lambda what, find, otherwise: attempt(
      f"{what} of {job.title}", find, otherwise)
  return {
      "before": titled("measures before training", lambda: evidence.measure(
          assembled, reader, titled), None),
      "moved": titled("CKA", lambda: layer_moves.measure(
          assembled.rows, assembled.sources.get(""), _trained.open(job.workdir),
          assembled.data), None)}
