"""Checks all runs of a study before the first one trains."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

from transfer_gen import progress
from transfer_gen.study import claims
from transfer_gen.study import equal
from transfer_gen.study import fairness
from transfer_gen.study import run_files
from transfer_gen.study import tracing

rehearsal = equal.rehearsal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
  """What checking a study has found.

  Attributes:
    study: The study, with the steps that `Study.equal` asks for.
    notes: Which runs have other steps than their config says, and which pairs differ in
      more than what they transfer, for people.
    reader: Has read and tokenized the texts of all runs.
    runs: The runs by name, assembled.
    begun: Workdirs that belong to the training that the study wants there.
  """
  study: rehearsal.jobs_lib.Study
  notes: Sequence[str]
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

  def assembled(name: str, count: int) -> rehearsal.assemble.Assembled:
    """Assembles a run with other steps."""
    names = rehearsal.jobs_lib.in_order(study, name)  # Its sources as well.
    return rehearsal.rehearse(
        [dataclasses.replace(job, run=equal.with_steps(job.run, count))
         if job.name == name else job for job in jobs if job.name in names],
        reader, lambda: None)[name]

  found = equal.steps(study, runs, assembled)
  changed = lambda name, run: equal.with_steps(
      run, found[name]) if name in found else run
  jobs = [dataclasses.replace(job, run=changed(job.name, job.run)) for job in jobs]
  return Checked(
      study=dataclasses.replace(study, runs={
          name: changed(name, run) for name, run in study.runs.items()}),
      notes=[*equal.describe(study, runs, found), *fairness.notes(study, runs)],
      reader=reader,
      runs={**runs, **{name: assembled(name, count) for name, count in found.items()}},
      begun=claims.check(jobs, reader, force))
