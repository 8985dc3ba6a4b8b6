"""Saves checkpoints in the background, and reads them back to go on from."""

from collections.abc import Mapping
import contextlib
from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from transfer_gen import processes
from transfer_gen import tree
from transfer_gen.checkpoint import digests
from transfer_gen.checkpoint import failures
from transfer_gen.checkpoint import layout
from transfer_gen.checkpoint import whole_files

_DAMAGED = ".damaged"  # Ending of the folder of a checkpoint that was set aside.


class Checkpoints:
  """The checkpoints of one run, written in the background.

  Args:
    workdir: Workdir of the run.
    keep: How many of the newest checkpoints stay; older ones are deleted.
    every: Those whose step is a multiple of it stay as well; 0: none for that.
    best: How many of the best params stay besides: the last that `save_best` wrote.

  Raises:
    errors.UserError: If another process has them open to write, or if nothing can be
      written there.
  """

  def __init__(
      self, workdir: epath.PathLike, keep: int = 2, every: int = 0, best: int = 1):
    # Orbax needs an absolute path.
    folder = layout.remote.absolute(workdir) / layout.FOLDER
    with failures.writing(folder):
      folder.mkdir(parents=True, exist_ok=True)
      self._lock = contextlib.ExitStack()
      # Of processes that train together, one holds it for all.
      processes.by_first(lambda: self._lock.enter_context(
          layout.alone(folder, f"{workdir}: another command trains in it")))
      layout.configure()
      # Two managers: `keep` counts the newest steps, and one manager would delete the
      # best step once it is old.
      self._last = layout.manager(folder, keep, every)
      self._best = layout.manager(folder / layout.BEST, best)

  def save(
      self, step: int, params: Mapping[str, Any], opt_state: Any,
      facts: Mapping[str, Any], others: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts writing a checkpoint from which training can go on.

    Args:
      step: Number of updates so far.
      params: Arrays by name.
      opt_state: The optimizer state.
      facts: JSON types to store beside the arrays.
      others: Further arrays that training goes on with, if there are any.
    """
    saved = {layout.PARAMS: tree.unflatten(params), layout.STATE: opt_state,
             **({layout.OTHERS: dict(others)} if others else {})}
    self._save(self._last, step, ocp.args.Composite(
        **{name: layout.saving(arrays) for name, arrays in saved.items()},
        facts=ocp.args.JsonSave(digests.seal(facts, {
            name: digests.of(digests.leaves(arrays))
            for name, arrays in saved.items()}))))

  def amend(self, step: int, facts: Mapping[str, Any]) -> None:
    """Replaces the facts of a checkpoint, once it is complete.

    A process that is killed in this leaves either the old facts or the new ones.

    Args:
      step: Step of a checkpoint that `save` has begun to write.
      facts: As of `save`.
    """
    self._wait(self._last)
    if not processes.is_first():
      return
    folder = epath.Path(self._last.directory) / str(step)
    with digests.reading(folder):
      _, kept = digests.unseal(layout.read_facts(folder))
    with failures.writing(folder):
      layout.write_facts(folder, digests.seal(facts, kept))

  def save_best(
      self, step: int, params: Mapping[str, Any], facts: Mapping[str, Any]
  ) -> None:
    """Starts writing the params with the best validation so far."""
    # A run that was killed after this and before its next `save` goes on from an older
    # step and arrives here again, with the same params.
    if step in self._best.all_steps():
      return
    self._save(self._best, step, ocp.args.Composite(
        params=layout.saving(tree.unflatten(params)),
        facts=ocp.args.JsonSave(digests.seal(
            facts, {layout.PARAMS: digests.of(params)}))))

  def last_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    return self._last.latest_step()

  def set_aside(self, step: int) -> epath.Path:
    """Renames the folder of a damaged checkpoint, so that it counts no more.

    Args:
      step: Its step.

    Returns:
      The new path, in the same folder.
    """
    path = epath.Path(self._last.directory) / str(step)
    number = 0
    while (aside := path.parent / f"{step}{_DAMAGED}{number or ''}").exists():
      number += 1
    processes.by_first(lambda: path.rename(aside))
    self._last.reload()
    return aside

  def remove(self, step: int) -> bool:
    """Removes the checkpoint of a step; returns whether there was one."""
    found = [manager for manager in (self._last, self._best)
             if step in manager.all_steps()]
    for manager in found:
      manager.delete(step)
    return bool(found)

  def facts(self, step: int) -> dict[str, Any]:
    """Returns the facts that `save` stored beside the arrays.

    Raises:
      digests.Damaged: If they are missing or are not those that were saved.
    """
    return self._unseal(step)[0]

  def restore(
      self, step: int, params: Mapping[str, Any], opt_state: Any,
      others: Mapping[str, Any] | None = None,
  ) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Reads a checkpoint back.

    Args:
      step: Step of the checkpoint.
      params: `jax.ShapeDtypeStruct`s with shardings, by name.
      opt_state: The optimizer state as `jax.ShapeDtypeStruct`s with shardings.
      others: The others that were saved, in the same form.

    Returns:
      Params by name, the optimizer state, and the others.

    Raises:
      digests.Damaged: If something is missing or is not what was saved.
    """
    folder = epath.Path(self._last.directory) / str(step)
    # Before Orbax reads, which waits for all processes.
    with digests.agreed():
      whole_files.check(folder)
    _, saved = self._unseal(step)
    wanted = {layout.PARAMS: tree.unflatten(params), layout.STATE: opt_state,
              **({layout.OTHERS: dict(others)} if others else {})}
    with digests.agreed(), digests.reading(folder):
      restored = self._last.restore(step, args=ocp.args.Composite(
          **{name: ocp.args.StandardRestore(shapes)
             for name, shapes in wanted.items()}))
      for name in wanted:
        digests.check(digests.leaves(restored[name]), saved[name], folder)
    return (tree.flatten(restored[layout.PARAMS]), restored[layout.STATE],
            dict(restored[layout.OTHERS]) if others else {})

  def _unseal(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = epath.Path(self._last.directory) / str(step)
    with digests.agreed(), digests.reading(folder):
      return digests.unseal(layout.read_facts(folder))

  def wait(self) -> None:
    """Waits until everything that was saved is on disk.

    Raises:
      errors.UserError: If it cannot be written there. What was complete before is kept.
    """
    self._wait(self._last)
    self._wait(self._best)

  def close(self) -> None:
    """Waits, and lets other processes write; raises as `wait`."""
    with self._lock:
      for manager in (self._last, self._best):
        self._wait(manager)
        with failures.writing(manager.directory):
          manager.close()

  def _save(self, manager: ocp.CheckpointManager, step: int, what: Any) -> None:
    self._wait(manager)
    # The caller decides when to save: without `force`, Orbax's own policy would ask
    # whether the step is due.
    with failures.writing(manager.directory):
      manager.save(step, args=what, force=True)

  def _wait(self, manager: ocp.CheckpointManager) -> None:
    with failures.writing(manager.directory):
      manager.wait_until_finished()
      for step in manager.all_steps():
        whole_files.seal(epath.Path(manager.directory) / str(step))
