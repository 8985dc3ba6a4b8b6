"""Trains what a study asks for; what fails is reported, and the others go on."""

from collections.abc import Callable, Collection, Sequence
import sys
from typing import Any, TypeVar

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.run import ledger
from transfer_gen.study import auto
from transfer_gen.study import clock
from transfer_gen.study import jobs as jobs_lib

_T = TypeVar("_T")
_ENDED = "trained.json"  # In the workdir of a training of a study that has ended.


class Trainings:
  """The trainings of a study.

  Attributes:
    failures: What failed: `run` (for people), `name`, `diverged`, and `lines`, the last
      ones of what was said.
    notes: What could not be shown, and why.
    clock: How long the calls of the study took. It is stored after each training.
  """

  def __init__(
      self, reader: Any, begun: Collection[str], workdir: epath.Path, only: str = "",
      total: int = 0):
    """Begins a call of a study.

    Args:
      reader: Has read the data of all runs.
      begun: Workdirs that belong to their trainings; those of them that have ended are
        not trained again.
      workdir: Workdir of the study.
      only: Pattern of what is trained, as of `fnmatch`: names of runs, or
        `NAME/seed_S`; all if empty. Sources are trained along with what reads them.
      total: Number of trainings that are known so far, for people.
    """
    self.failures: list[dict[str, Any]] = []
    self.notes: list[str] = []
    self._reader, self._begun, self._only = reader, begun, only
    self.clock, self._total = clock.Clock(workdir), total
    self._ended: dict[str, bool] = {}  # By workdir.

  def train(self, jobs: Sequence[jobs_lib.Job]) -> None:
    """Trains what has not ended, each once, sources first.

    Raises:
      errors.Unwritable: If the disk is full: everything else would fail as well.
    """
    self._total = max(self._total, len(jobs))
    wanted = {job.workdir for job in jobs_lib.selected(jobs, self._only)}
    for job in jobs:
      if str(job.workdir) not in self._ended:
        ended = str(job.workdir) in self._begun and (job.workdir / _ENDED).exists()
        if ended or job.workdir in wanted:
          self._ended[str(job.workdir)] = ended or self._train(job)

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
      self._fail(job, error)
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

  def _train(self, job: jobs_lib.Job) -> bool:
    """Trains; returns whether it ended without a failure."""
    for source in jobs_lib.read_by(job.run):
      if not self._ended.get(source.path, True):
        self._fail(job, errors.UserError(f"its source {source.path} failed."))
        return False
    print(f"[{len(self._ended) + 1}/{self._total}] {job.title}", flush=True)
    try:
      found = auto.train(job.run, job.workdir, reader=self._reader)
    except errors.Unwritable:
      raise
    except Exception as error:  # pylint: disable=broad-except
      self._fail(job, error)
      return False
    # Written last: with it, the training has ended.
    whole.write_json(job.workdir / _ENDED, found)
    self.clock.seconds()
    return True

  def _fail(self, job: jobs_lib.Job, error: Exception) -> None:
    lines = errors.last_lines(error)
    self.failures.append({
        "run": job.title, "name": job.name, "lines": lines,
        "diverged": isinstance(error, ledger.Diverged)})
    print("\n  ".join([f"{job.title} failed:", *lines]), file=sys.stderr, flush=True)
