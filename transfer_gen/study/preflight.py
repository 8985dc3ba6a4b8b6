"""Checks all runs of a study before the first one trains."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

from transfer_gen import progress
from transfer_gen.study import claims
from transfer_gen.study import fairness
from transfer_gen.study import rehearsal
from transfer_gen.study import run_files
from transfer_gen.study import tracing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
  """What checking a study has found.

  Attributes:
    reader: Has read and tokenized the texts of all runs.
    runs: The runs by name, assembled.
    begun: Workdirs that belong to the training that the study wants there.
  """
  reader: run_files.Reader
  runs: Mapping[str, rehearsal.assemble.Assembled]
  begun: Collection[str]


def check(
    study: rehearsal.jobs_lib.Study, jobs: Sequence[rehearsal.jobs_lib.Job],
    force: bool = False) -> Checked:
  """Checks configs, files, vocabularies, plans, lengths and pairs of all runs.

  A mistake in the last run would otherwise show after hours.

  Args:
    study: The study.
    jobs: All its trainings.
    force: Whether workdirs of changed runs are renamed, to train them anew.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names, if a
      metric is unknown, if a pair is not fair, or if a workdir belongs to another run.
  """
  reader = run_files.check(study, jobs)
  total = len({job.name for job in jobs})
  with progress.track("checking", total=total, unit="run") as work:
    runs = rehearsal.rehearse(jobs, reader, work.advance)
  tracing.check(runs)
  fairness.check(study, runs, reader)
  return Checked(reader=reader, runs=runs, begun=claims.check(jobs, reader, force))
