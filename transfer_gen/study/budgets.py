"""More steps for controls whose validation loss still falls at the end of their own."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.study import jobs as jobs_lib

_MOST = 8  # Times the steps of the control.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Longer:
  """A control with more steps, or with its own if these are enough.

  Attributes:
    of: Name of the control.
    times: How many times the control's steps it has at most: 1, 2, 4 or 8.
  """
  of: str
  times: int = 1

  @property
  def name(self) -> str:
    """Name of the run."""
    return self.of if self.times == 1 else f"{self.of}_x{self.times}"

  @property
  def why(self) -> str:
    """Why it is trained; it is longer than the control."""
    before = Longer(of=self.of, times=self.times // 2)
    of = "" if before.name == self.of else f"{self.of} is "
    return (f"{before.name} still improved: {of}trained again with {self.times} times"
            f" its steps ({self.name})")

  @property
  def next(self) -> "Longer | None":
    """With twice the steps; None if it has the most already."""
    return None if self.times == _MOST else Longer(of=self.of, times=2 * self.times)


def check(study: config_lib.Study) -> None:
  """Refuses a study in which a run has the name that a longer control would get.

  Raises:
    errors.UserError: If there is one and the study's budget is `converged`.
  """
  if study.budget != "converged":
    return
  for control in {control for _, control in study.pairs}:
    longer = Longer(of=control).next
    while longer is not None:
      if longer.name in study.runs:
        raise errors.UserError(
            f"run {longer.name!r} has the name that {control!r} would get with"
            f" {longer.times} times its steps, as budget is 'converged'. Give it"
            " another name.")
      longer = longer.next


def run_of(
    study: config_lib.Study, longer: Longer, job: jobs_lib.Job) -> config_lib.Run:
  """Returns the run of a control with more steps.

  All intervals grow along, so that it is validated as often. Its schedule spans all of
  its steps. It tries all rates of `Study.lrs` anew, and those beyond the edge at which
  its own best one lies, see `grid.Grid.add_longer`: over more steps, the best rate may
  be another one. Without `Study.lrs`, it has the control's own.

  Args:
    study: The study.
    longer: How much longer the control trains.
    job: A training of the control, which says what its config left open.
  """
  chosen, run = codec.read_run(job.workdir), study.runs[longer.of]
  more = {name: longer.times * chosen.value("train", name) for name in (
      "steps", "log_every", "eval_every", "checkpoint_every")}
  return run.with_values("train", **more)


def still_improves(results: Mapping[str, Any], name: str) -> bool:
  """Whether validation loss still fell at the end of a run, with any seed.

  Args:
    results: What `outcome.test` returned for each seed, by the name of the run.
    name: Name of the run. One without results does not improve.
  """
  return any(run["still_improving"] for run in results.get(name, ()))
