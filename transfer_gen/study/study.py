"""Runs with controls: trains what is not finished, tests, compares and reports."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

from etils import epath

from transfer_gen.study import budgets
from transfer_gen.study import findings
from transfer_gen.study import grid
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import preflight
from transfer_gen.study import report_folder
from transfer_gen.study import scoring as scoring_lib
from transfer_gen.study import trainings


def run(
    study: jobs_lib.Study, workdir: epath.PathLike, only: str = "", force: bool = False,
    command: str = "", at_once: int = 1,
) -> dict[str, Any]:
  """Trains, tests and compares runs; writes what it found into files.

  These are `results.json`, `results.csv`, `report.html` and `report.svg`, see
  `report_folder.write`.
  The runs of a pair come before those of the next one, and they are written after
  each pair. What fails is reported, and the other runs go on.

  Args:
    study: Runs, pairs and seeds.
    workdir: Holds the workdir of each run. What is finished there is not done again.
    only: Pattern of what is trained in this call: names of runs, or `NAME/seed_S`. A
      pair is compared once all its trainings are finished.
    force: Whether runs whose config changed are trained anew. The old ones are renamed.
    command: What was typed to get this, for the report; "" if it was not a command.
    at_once: Number of trainings at once, each in a process of its own if there are
      several, with a log of what it says. They are the same to the last bit. As with
      `multiprocessing`, a script that asks for several must do so below
      `if __name__ == "__main__":`.

  Returns:
    What `results.json` holds. Its `summary` has `<run>_test_loss` of each compared run
    (nats per token, mean over seeds), of the first pair the gain in nats per token, in
    bits per byte and in `Study.metrics` with its interval, `reached` and `gap` (see
    `comparison.compare`), `effective_data` and `pays_from` where they are known,
    `alarms` (treated runs that may be worse than their control), `best` (the training
    that the link `best` names, see `pairs.mark_best`), `calls` and `seconds`, of all
    calls. Beside it, `failures` and `notes` (see `trainings.Trainings`) and `missing`,
    the pairs without a result. If no pair has one, only these are there, and nothing
    is written.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names.
  """
  trainings.prepare(at_once)
  study = jobs_lib.expanded(study)
  begun, facts = (), {}
  with contextlib.closing(_Call(
      study, epath.Path(workdir), only, force, command, at_once)) as call:
    for pair in study.pairs:
      begun = tuple(dict.fromkeys((*begun, *pair)))
      call.train(begun)
      call.lengthen(pair[1])
      facts = call.report()
    return call.illustrate() if "summary" in facts else facts


class _Call:
  """One call of a study."""

  def __init__(
      self, study: jobs_lib.Study, workdir: epath.Path, only: str, force: bool,
      command: str, at_once: int):
    planned = jobs_lib.jobs(study, workdir)
    jobs_lib.check_only(planned, only)
    checked = preflight.check(study, planned, force)
    # A copy, to which controls with more steps are added.
    study = dataclasses.replace(checked.study, runs={**checked.study.runs})
    self._study, self._workdir, self._command = study, workdir, command
    self._work = trainings.Trainings(
        checked.reader, checked.begun, workdir, only,
        {name: one.run.train.steps for name, one in checked.runs.items()}, at_once)
    self.close = self._work.close
    for line in checked.notes:
      print(line, flush=True)
    self._work.notes += checked.notes
    self._grid = grid.Grid(study)
    self.scoring = scoring_lib.Scoring(study, self._work, checked.reader)
    self._jobs: dict[str, list[jobs_lib.Job]] = {}  # All trainings so far, by run.
    self._longer: dict[str, budgets.Longer] = {}  # By control.
    self._names: Sequence[str] = ()  # Of the runs of the study that were trained last.

  def train(self, names: Sequence[str]) -> None:
    """Trains some runs and what they read, until no grid has to be widened."""
    self._names = names
    more = [one.name for one in self._longer.values()]
    while True:
      self._jobs = self._planned((*names, *more))
      later = self._planned((*names, *more, *jobs_lib.compared(self._study)))
      self._work.train(*(
          [job for jobs in some.values() for job in jobs] for some in (
              self._jobs, later)))
      rates = {name: self._grid.of(name) for name in self._jobs}
      if not self._grid.widen(self._whole()):
        return
      for line in self._grid.added(rates):
        print(line, flush=True)

  def lengthen(self, control: str) -> None:
    """Trains a control with more steps, until its validation loss no longer falls.

    It does so if the study's budget says so, and once for each control.
    """
    results = self.scoring.score(self._whole())
    if self._study.budget == "equal" or control in self._longer or (
        control not in results):
      return
    [first, *_] = [job for job in self.scoring.tested if job.name == control]
    treated = [one for one, other in self._study.pairs if other == control]
    longer = budgets.Longer(of=control)
    while budgets.still_improves(results, longer.name) and longer.next is not None:
      pairs = [pair for pair in self._study.pairs if pair[1] != longer.name or (
          longer.times == 1)]
      longer = longer.next
      self._study.runs[longer.name] = budgets.run_of(self._study, longer, first)
      self._grid.add_longer(longer.name)
      self._study.pairs = (*pairs, *((one, longer.name) for one in treated))
      self._longer[control] = longer
      if self._work.are_open(self._planned([longer.name])[longer.name]):
        print(longer.why, flush=True)
      self.train(self._names)
      results = self.scoring.score(self._whole())
    self._longer[control] = longer

  def report(self) -> dict[str, Any]:
    """Scores what has ended, and writes what was found so far."""
    return self._write(self.scoring.score(self._whole()))

  def illustrate(self) -> dict[str, Any]:
    """Adds what costs more and decides nothing, once all scores are written."""
    if self._study.accounts:
      self.scoring.add_accounts([
          jobs[0] for name, jobs in self._jobs.items() if name in self.scoring.sources])
      self._write(self.scoring.results())
    self.scoring.add_transfer()
    self.scoring.add_samples()
    return self._write(self.scoring.results())

  def _planned(self, names: Sequence[str]) -> dict[str, list[jobs_lib.Job]]:
    """The trainings of some runs and of what they read, by run, sources first."""
    ordered = dict.fromkeys(one for name in names
                            for one in jobs_lib.in_order(self._study, name))
    return {name: jobs_lib.of_run(
        self._study, self._workdir, name, self._grid.of(name)) for name in ordered}

  def _whole(self) -> dict[str, list[jobs_lib.Job]]:
    """By run, the trainings at those rates at which all seeds have ended."""
    found = {}
    for name, jobs in self._jobs.items():
      ended = self._work.ended(jobs)
      seeds = len({job.seed for job in jobs})
      whole = [job for job in ended
               if sum(other.lr == job.lr for other in ended) == seeds]
      if whole:
        found[name] = whole
    return found

  def _write(self, results: Mapping[str, Any]) -> dict[str, Any]:
    complete = tuple(pair for pair in self._study.pairs if results.keys() >= {*pair})
    rest = {"failures": self._work.failures, "notes": self._work.notes,
            "missing": [pair for pair in self._study.pairs if pair not in complete]}
    if not complete:
      return rest
    compared = {name for pair in complete for name in pair}
    results = {name: runs for name, runs in results.items() if name in compared}
    tested = [job for job in self.scoring.tested if job.name in compared]
    jobs = [job for one in self._jobs.values() for job in self._work.ended(one)]
    best = self.scoring.mark_best(complete, self._workdir)
    found = findings.of_study(
        dataclasses.replace(self._study, pairs=complete), jobs, results,
        self.scoring.sources,
        [one.name for one in self._longer.values() if one.times > 1])
    calls = self._work.clock.seconds()
    lrs = {name: runs[0]["lr"] for name, runs in results.items()}
    found["summary"] |= {
        "seeds": len(self._study.seeds), "lrs": lrs, "best": best.pop("best"),
        "seconds": round(sum(calls), 1), "calls": len(calls)}
    longer = {one.name: dataclasses.asdict(one) for one in self._longer.values()}
    facts = {"question": self._study.question, "command": self._command, **found,
             **rest, **best, "longer": longer}
    report_folder.write(self._workdir, facts, jobs, tested, self._work.show)
    return facts
