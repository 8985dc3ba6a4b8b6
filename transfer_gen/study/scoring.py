"""The scores of the trainings that a study compares, and what it shows beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transfer_gen import progress
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import outcome
from transfer_gen.study import pairs
from transfer_gen.study import trainings as trainings_lib
from transfer_gen.study import transfer_measures

Found = dict[str, Any]  # What `outcome.test` returns, and what was added to it.


class Scoring:
  """Scores each training at most once, at the rates that validation has chosen.

  Attributes:
    tested: The compared trainings: for each run one per seed.
    sources: For each training that is only a source, by name, what it cost.
  """

  def __init__(
      self, study: jobs_lib.Study, work: trainings_lib.Trainings,
      reader: outcome.trained_lib.Reader):
    """Scores the trainings of a study; `work` learns of what fails."""
    self.tested: list[jobs_lib.Job] = []
    self.sources: dict[str, Found] = {}
    self._study, self._work, self._reader = study, work, reader
    self._found: dict[str, Found | None] = {}  # By workdir.
    self._added: set[tuple[str, str]] = set()  # What, and to which workdir.

  def score(self, trained: Mapping[str, Sequence[jobs_lib.Job]]) -> dict[str, Any]:
    """Chooses the rate of each compared run, and scores it on the test split.

    Args:
      trained: The trainings of each run that have ended, of all seeds, by name.

    Returns:
      The outcomes by the name of the run, one for each seed. Runs that could not be
      scored are left out.
    """
    self.tested = []
    compared, asked = jobs_lib.compared(self._study), self._study.metrics
    for name, jobs in trained.items():
      if name not in compared:
        self.sources.setdefault(name, outcome.logged.cost(jobs[0]))
        continue
      # Rates are chosen by validation, and only the chosen ones are scored.
      lr = pairs.best_lr(jobs)
      chosen = [job for job in jobs if job.lr == lr]
      for job in chosen:
        if str(job.workdir) not in self._found:
          self._found[str(job.workdir)] = self._work.score(
              job, lambda job=job: outcome.test(job, self._reader))
      if all(self._found[str(job.workdir)] for job in chosen):
        self.tested += chosen
    if asked:
      self._add("metrics", lambda job, found: outcome.with_metrics(
          job, found, asked, self._reader))
    return self.results()

  def results(self) -> dict[str, list[Found]]:
    """Returns the outcomes as `score` does, with all that was added since."""
    found: dict[str, list[Found]] = {}
    for job in self.tested:
      found.setdefault(job.name, []).append(self._found[str(job.workdir)] or {})
    if all("measured" in run for runs in found.values() for run in runs):
      return found
    # A metric that some run lacks compares nothing.
    return {name: [{key: value for key, value in run.items()
                    if key not in ("measured", "metrics")} for run in runs]
            for name, runs in found.items()}

  def mark_best(
      self, compared: Sequence[tuple[str, str]], workdir: jobs_lib.epath.Path
  ) -> dict[str, str]:
    """Makes the link `best`; returns what it names as `best`, and by what, `judged_by`.

    Args:
      compared: The pairs that have results.
      workdir: Workdir of the study.
    """
    names = {name for pair in compared for name in pair}
    tested = [job for job in self.tested if job.name in names]
    return {"best": pairs.mark_best(compared, tested, workdir),
            "judged_by": pairs.judged_by(tested)}

  def add_accounts(self, sources: Sequence[jobs_lib.Job]) -> None:
    """Adds what the trainings cost and forgot; failures become notes."""
    self._add("accounts", lambda job, found: outcome.with_accounts(
        job, found, self._reader))
    for job in sources:
      self._work.show(f"accounts of {job.title}", lambda job=job: self.sources[
          job.name].update(accounts=outcome.source_accounts(job, self._reader)), None)

  def add_samples(self) -> None:
    """Adds what the trainings write or draw; failures become notes."""
    if self._study.samples:
      self._add("samples", lambda job, found: outcome.with_samples(
          job, found, self._study.samples, self._study.seeds[0], self._reader))

  def add_transfer(self) -> None:
    """Adds what treated runs had of their sources, once a run; failures become notes.

    That is `transfer`, see `transfer_measures.of_job`, of the first seed.
    """
    treated = {pair[0] for pair in self._study.pairs}
    self._add("measures of the transfer", lambda job, found: {
        **found, "transfer": transfer_measures.of_job(
            job, self._reader, self._work.show)},
        [job for job in self.tested
         if job.name in treated and job.seed == self._study.seeds[0]])

  def _add(
      self, what: str, add: Callable[[jobs_lib.Job, Found], Found],
      jobs: Sequence[jobs_lib.Job] | None = None) -> None:
    jobs = [job for job in (self.tested if jobs is None else jobs)
            if (what, str(job.workdir)) not in self._added]
    if not jobs:
      return
    with progress.track(what, total=len(jobs), unit="training") as work:
      for job in jobs:
        found = self._found[str(job.workdir)] or {}
        self._added.add((what, str(job.workdir)))
        self._found[str(job.workdir)] = self._work.show(
            f"{what} of {job.title}", lambda job=job, found=found: add(job, found),
            found)
        work.advance()
