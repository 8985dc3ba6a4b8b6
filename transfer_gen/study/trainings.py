"""Trains what a study asks for; what fails is reported, and the others go on."""

from collections.abc import Callable, Collection, Mapping, Sequence
import sys
from typing import Any, TypeVar

from etils import epath

from transfer_gen import errors
from transfer_gen.study import clock
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import meter as meter_lib
from transfer_gen.study import one_training
from transfer_gen.study import workers

_T = TypeVar("_T")
_POLL = 1.0  # Seconds between two looks at the trainings in progress.
prepare = workers.prepare


class Trainings:
  """The trainings of a study.

  Attributes:
    notes: What the report says beside its results, such as what could not be shown.
    clock: How long the calls of the study took. It is stored after each training.
  """

  def __init__(
      self, reader: Any, begun: Collection[str], workdir: epath.Path, only: str = "",
      steps: Mapping[str, int] | None = None, at_once: int = 1):
    """Begins a call of a study.

    Args:
      reader: Has read the data of all runs.
      begun: Workdirs that belong to their trainings; those of them that have ended are
        not trained again.
      workdir: Workdir of the study.
      only: Pattern of what is trained, as of `fnmatch`: names of runs, or
        `NAME/seed_S`; all if empty. Sources are trained along with what reads them.
      steps: By name of a run, its steps, where its config leaves them open.
      at_once: Number of trainings at once. If it is 1, they train in this process, and
        print all that a training prints.
    """
    self.notes: list[str] = []
    self._reader, self._begun, self._only = reader, begun, only
    self.clock = clock.Clock(workdir)
    self._failures: list[tuple[str, dict[str, Any]]] = []  # With their workdirs.
    self._ended: dict[str, bool] = {}  # By workdir.
    self._order: dict[str, None] = {}  # The workdirs of all trainings that are known.
    self._workers = workers.Workers(at_once) if at_once > 1 else None
    self._meter = meter_lib.Meter(steps or {}, at_once)

  @property
  def failures(self) -> list[dict[str, Any]]:
    """What failed: `run` (for people), `name`, `diverged` and `lines`, see `Ending`.

    They come in the order in which a single process would have trained them.
    """
    order = list(self._order)
    return [one for _, one in sorted(
        self._failures, key=lambda pair: order.index(pair[0]))]

  def train(
      self, jobs: Sequence[jobs_lib.Job], later: Sequence[jobs_lib.Job] = ()) -> None:
    """Trains what has not ended, each once, sources first.

    Args:
      jobs: What has ended or failed when this returns.
      later: What is to be trained later, all of `jobs` among it. If several train at
        once, those of it begin for which `jobs` leave room.

    Raises:
      errors.Unwritable: If the disk is full: everything else would fail as well.
    """
    wanted, later = self._open(jobs), self._open(later)
    if self._workers is not None:
      self._train_together(self._workers, wanted, later)
      return
    for job in wanted:
      if not self._lacks_source(job):
        told = meter_lib.Told()
        self._meter.begin(job, told)
        with told.listening(self._meter.look):
          ending = one_training.train(job, self._reader)
        self._end(job, ending)

  def are_open(self, jobs: Sequence[jobs_lib.Job]) -> bool:
    """Whether some of these trainings are wanted and have not ended."""
    return bool(self._open(jobs))

  def close(self) -> None:
    """Ends the processes that train, if there are any; they save their steps."""
    if self._workers is not None:
      self._workers.close()

  def ended(self, jobs: Sequence[jobs_lib.Job]) -> list[jobs_lib.Job]:
    """Returns those of some trainings that have ended without a failure."""
    return [job for job in jobs if self._ended.get(str(job.workdir), False)]

  def score(self, job: jobs_lib.Job, score: Callable[[], _T]) -> _T | None:
    """Returns what a function finds of a training; None if that fails."""
    try:
      return score()
    except errors.Unwritable:
      raise
    except Exception as error:  # pylint: disable=broad-except
      self._fail(job, one_training.failure(error))
      return None

  def show(self, what: str, show: Callable[[], _T], otherwise: _T) -> _T:
    """Returns what only illustrates a result; a failure becomes a note."""
    try:
      return show()
    except errors.Unwritable:
      raise
    except Exception as error:  # pylint: disable=broad-except
      note = f"{what}: left out, because it failed: {errors.cause(error)}."
      if note not in self.notes:
        self.notes.append(note)
        print(note, file=sys.stderr, flush=True)
      return otherwise

  def _open(self, jobs: Sequence[jobs_lib.Job]) -> list[jobs_lib.Job]:
    """Returns those of some trainings that are wanted and have not ended."""
    self._order |= dict.fromkeys(str(job.workdir) for job in jobs)
    wanted = {job.workdir for job in jobs_lib.selected(jobs, self._only)}
    found = []
    for job in jobs:
      if str(job.workdir) not in self._ended:
        if str(job.workdir) in self._begun and one_training.has_ended(job.workdir):
          self._ended[str(job.workdir)] = True
        elif job.workdir in wanted:
          found.append(job)
          self._meter.know(job, ended=False)
      if self._ended.get(str(job.workdir)):
        self._meter.know(job, ended=True)
    return found

  def _train_together(
      self, those: workers.Workers, wanted: Sequence[jobs_lib.Job],
      later: Sequence[jobs_lib.Job]) -> None:
    queue = list({job.workdir: job for job in (*wanted, *later)}.values())
    is_open = lambda job: str(job.workdir) not in self._ended
    while any(map(is_open, wanted)):
      running = {job.workdir for job in those.running}
      waiting = [job for job in queue if is_open(job) and job.workdir not in running]
      ready = [job for job in waiting if self._can_begin(job, running, waiting)]
      if ready and those.is_free:
        if not self._lacks_source(ready[0]):
          self._begin(those, ready[0])
        continue
      for job, ending in those.wait(_POLL):
        self._end(job, ending)
      self._meter.look()

  def _begin(self, those: workers.Workers, job: jobs_lib.Job) -> None:
    try:
      self._meter.begin(job, those.begin(job), ": begins")
    except Exception as error:  # pylint: disable=broad-except
      self._end(job, one_training.failure(error))

  def _can_begin(self, job, running, waiting) -> bool:
    """Whether all that a training reads is there, or no training can bring it."""
    read = {source.path for source in jobs_lib.read_by(job.run)}
    mine = {str(workdir) for workdir in running} | {
        str(other.workdir) for other in waiting}
    # Trainings that read each other would wait for ever; the first one then fails.
    return not read & mine or (not running and job is waiting[0])

  def _lacks_source(self, job: jobs_lib.Job) -> bool:
    """Whether a source of a training has failed, and so the training as well."""
    for source in jobs_lib.read_by(job.run):
      if not self._ended.get(source.path, True):
        self._end(job, one_training.failure(
            errors.UserError(f"its source {source.path} failed.")))
        return True
    return False

  def _end(self, job: jobs_lib.Job, ending: one_training.Ending) -> None:
    """Counts a training that has ended, and says so if it did beside others.

    Raises:
      errors.Unwritable: If that ended it.
    """
    if ending.unwritable:
      raise errors.Unwritable(*ending.unwritable)
    self._ended[str(job.workdir)] = not ending.lines
    self._meter.end(job)
    if ending.lines:
      self._fail(job, ending)
      return
    self.clock.seconds()
    if self._workers is not None:
      print(meter_lib.outcome(job, ending.facts), flush=True)

  def _fail(self, job: jobs_lib.Job, ending: one_training.Ending) -> None:
    self._failures.append((str(job.workdir), {
        "run": job.title, "name": job.name, "lr": job.lr, "lines": list(ending.lines),
        "diverged": ending.diverged}))
    print("\n  ".join([f"{job.title} failed:", *ending.lines]), file=sys.stderr,
          flush=True)
