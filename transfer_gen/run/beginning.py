"""Where a training begins: at the first step, or at the newest whole checkpoint."""

from collections.abc import Iterator
import contextlib
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import checkpoint
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import facts as facts_lib
from transfer_gen.run import state as state_lib
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Beginning:
  """What a training goes on from.

  Attributes:
    checkpoints: The checkpoints of the workdir, to add to.
    step: Number of updates so far.
    facts: What the checkpoint holds beside its arrays; {} at the first step.
  """
  checkpoints: checkpoint.Checkpoints
  step: int
  facts: dict[str, Any]

  @property
  def validated(self) -> bool:
    """Whether the validation that was due at this step was done."""
    return self.facts.get("validated", True)


@contextlib.contextmanager
def find(
    assembled: assembled_lib.Assembled, runner: parallel.Runner, workdir: epath.Path,
    stop: int | None,
) -> Iterator[tuple[Beginning, step_lib.TrainState | None]]:
  """Yields the newest whole checkpoint, or a fresh state if none was written.

  A damaged one is renamed, with a line that says so, and the one before is taken. No
  other process can train in the workdir meanwhile.

  Args:
    assembled: The run.
    runner: Says where each array lives.
    workdir: Its workdir.
    stop: Step to stop at, or None.

  Yields:
    Where it begins, and the state to train from, or None if the run has ended.

  Raises:
    errors.UserError: If another process trains there, if there are checkpoints, but all
      are damaged, or if the newest belongs to another plan.
  """
  kept = assembled.run.train
  checkpoints = checkpoint.Checkpoints(
      workdir, kept.keep, kept.keep_every, kept.keep_best)
  try:
    yield _find(assembled, checkpoints, runner, workdir, stop)
  finally:
    checkpoints.close()


def _find(
    assembled: assembled_lib.Assembled, checkpoints: checkpoint.Checkpoints,
    runner: parallel.Runner, workdir: epath.Path, stop: int | None,
) -> tuple[Beginning, step_lib.TrainState | None]:
  folder = None
  while (step := checkpoints.last_step()) is not None:
    try:
      found = _read(assembled, checkpoints, runner, stop, step)
    except checkpoint.Damaged as damage:
      folder = checkpoints.set_aside(step)
      print(f"{damage}\nIt is {folder} now.", flush=True)
      continue
    print(f"{workdir}: goes on from step {step}", flush=True)
    return found
  if folder is not None:
    raise checkpoint.Damaged(
        f"{folder.parent}: all checkpoints are damaged. Remove the folder to train from"
        " the first step again.")
  print(f"{workdir}: {len(assembled.rows)} leaves, audited in audit.txt", flush=True)
  return Beginning(checkpoints, 0, {}), state_lib.fresh(assembled, runner.shardings)


def _read(
    assembled: assembled_lib.Assembled, checkpoints: checkpoint.Checkpoints,
    runner: parallel.Runner, stop: int | None, step: int,
) -> tuple[Beginning, step_lib.TrainState | None]:
  facts = checkpoints.facts(step)
  facts_lib.check_plan(facts, assembled)
  found = Beginning(checkpoints, step, facts)
  # Checked in the facts, which are small, so a run that has ended is reported without
  # reading its arrays.
  if (facts["finished"] or (stop is not None and step >= stop)) and found.validated:
    return found, None
  return found, state_lib.restored(assembled, checkpoints, step, runner)
