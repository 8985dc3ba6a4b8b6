"""How far a study is: its trainings, their steps, and the time that is left."""

from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
import contextlib
import dataclasses
import sys
import time
from typing import Any

from transfer_gen import progress
from transfer_gen.study import jobs as jobs_lib

_EVERY = 60.0  # Seconds between two lines, beside those at the begin of a training.
CELLS = 4  # Numbers that a training reports of itself.
_DONE, _TAKEN, _WORKED, _COMPILES = range(CELLS)


class Told:
  """What a training reports of itself, in numbers that processes may share.

  These are the steps that are done, those that this call took (a search takes steps
  that are none of the run's), the seconds that they took without compiling, and whether
  it compiles.
  """

  def __init__(self, cells: MutableSequence[float] | None = None):
    """Begins with what `cells` hold, or with zeros."""
    self.cells: Any = [0.0] * CELLS if cells is None else cells
    self._last: tuple[Any, int, float] = None, 0, 0.0  # A work, its steps, seconds.

  def hear(self, work: progress.Progress) -> None:
    """Notes the progress of a work, if its units are steps of a training."""
    if work.unit != "step":
      return
    of, done, worked = self._last
    if of is not work:
      done, worked = work.before, 0.0
    now = work.worked
    self.cells[_DONE] = max(self.cells[_DONE], work.done)
    self.cells[_TAKEN] += work.done - done
    self.cells[_WORKED] += now - worked
    self.cells[_COMPILES] = float(work.compiles)
    self._last = (work, work.done, now)

  @contextlib.contextmanager
  def listening(self, *others: Callable[[progress.Progress], object]) -> Iterator[None]:
    """Hears of the training in the body, and so do others."""
    with contextlib.ExitStack() as stack:
      for hear in (self.hear, *others):
        stack.enter_context(progress.heard(hear))
      yield

  def clear(self) -> None:
    """Forgets all, for the next training."""
    self.cells[:] = [0.0] * CELLS


@dataclasses.dataclass
class _Training:
  """What is known of a training: its steps, and when and how it went in this call."""
  name: str
  steps: int
  told: Sequence[float] = (0.0,) * CELLS
  began: float | None = None
  seconds: float | None = None  # Once it has ended.

  @property
  def is_open(self) -> bool:
    return self.seconds is None

  @property
  def done(self) -> float:
    return min(self.told[_DONE], self.steps) if self.is_open else self.steps


class Meter:
  """Counts the trainings of a study and their steps."""

  def __init__(self, steps: Mapping[str, int], at_once: int = 1):
    """Begins without trainings.

    Args:
      steps: By name of a run, its steps, where its config leaves them open.
      at_once: Number of trainings at once.
    """
    self._steps, self._at_once = steps, at_once
    self._known: dict[str, _Training] = {}  # By workdir.
    self._printed = time.monotonic()

  def know(self, job: jobs_lib.Job, ended: bool) -> None:
    """Counts a training that has ended before, or is wanted."""
    one = self._known.setdefault(str(job.workdir), _Training(
        name=job.name, steps=job.run.train.steps or self._steps.get(job.name, 0)))
    if ended and one.is_open:
      one.seconds = 0.0

  def begin(self, job: jobs_lib.Job, told: Told, ending: str = "") -> None:
    """Says that a training begins, which of how many, and how far the study is.

    Args:
      job: The training.
      told: What it will report of itself.
      ending: What ends the line.
    """
    number = 1 + sum(not one.is_open or one.began is not None
                     for one in self._known.values())
    print(f"[{number}/{len(self._known)}] {job.title}{ending}", flush=True)
    self._say()
    one = self._known[str(job.workdir)]
    one.began, one.told = time.monotonic(), told.cells

  def end(self, job: jobs_lib.Job) -> None:
    """Counts a training that has ended, or failed."""
    one = self._known[str(job.workdir)]
    one.told = tuple(one.told)  # Others may use the cells from here on.
    one.seconds = 0.0 if one.began is None else time.monotonic() - one.began

  def look(self, work: progress.Progress | None = None) -> None:
    """Says how far the study is, if that was said last a minute ago.

    Args:
      work: The progress of the training in this process, whose bar may be shown.
    """
    if time.monotonic() - self._printed >= _EVERY:
      self._say(work)

  def line(self) -> str:
    """Returns how far the study is, and about how much time is left."""
    trainings = self._known.values()
    done, total = sum(one.done for one in trainings), sum(
        one.steps for one in trainings)
    left = self._left()
    line = f"study: {done:,.0f} of {total:,} steps"
    if left is not None:
      line += f", about {progress.duration(left)} left"
    compiling = sum(
        bool(one.told[_COMPILES]) for one in trainings if one.is_open)
    if compiling and self._at_once > 1:  # One alone says so itself.
      line += "; 1 training compiles" if compiling == 1 else (
          f"; {compiling} trainings compile")
    return line

  def _left(self) -> float | None:
    """Seconds that are left; None as long as no step was taken."""
    opened = [one for one in self._known.values() if one.is_open]
    overall = _pace([*self._known.values()])
    if overall is None:
      return None
    seconds = 0.0
    for one in opened:
      own = _pace([other for other in self._known.values() if other.name == one.name])
      seconds += (one.steps - one.done) * (overall if own is None else own)
    # What a training takes beside its steps: reading, compiling, writing its files.
    extra = [one.seconds - one.told[_WORKED]
             for one in self._known.values() if one.seconds]
    beside = sum(extra) / max(len(extra), 1)
    seconds += max(beside, 0.0) * sum(one.began is None for one in opened)
    return seconds / max(min(self._at_once, len(opened)), 1)

  def _say(self, work: progress.Progress | None = None) -> None:
    self._printed = time.monotonic()
    if work is not None:
      work.say(self.line())
    else:
      print(self.line(), file=sys.stderr, flush=True)


def outcome(job: jobs_lib.Job, facts: Mapping[str, Any]) -> str:
  """Returns a line on a training that has ended, as `loop.train` returned it."""
  return (f"{job.title}: ended after {progress.duration(facts['seconds'])}, validation"
          f" loss {facts['best_validation_loss']:.4f} at step {facts['best_step']}")


def _pace(trainings: Sequence[_Training]) -> float | None:
  """Seconds of a step of some trainings in this call; None if they took none."""
  taken = sum(one.told[_TAKEN] for one in trainings)
  return sum(one.told[_WORKED] for one in trainings) / taken if taken else None
