"""Finds the checkpoint that a path means."""

from collections.abc import Iterator
import os
import sys

from etils import epath

from transfer_gen import best_link
from transfer_gen import errors
from transfer_gen import remote
from transfer_gen.checkpoint import digests
from transfer_gen.checkpoint import layout
from transfer_gen.checkpoint import stored

_SHOWN = 24  # Runs that an error lists.
_WANTED = ("Give the workdir of a run that has trained, or one of the folders in its"
           " checkpoints/.")


def find(path: epath.PathLike, step: int = -1) -> stored.Stored:
  """Finds a checkpoint and reads its metadata.

  Args:
    path: A run's workdir, its `checkpoints/`, or one checkpoint's folder; or the folder
      of a study or of a search, which stands for its best run.
    step: Step of the checkpoint in a run. -1 means the best one, or the last one if
      none was validated.

  Raises:
    errors.UserError: If there is no such checkpoint (then `digests.Damaged` if those
      that there are lack something).
  """
  layout.configure()
  remote.check_workdir(path)
  path, damages = best_link.follow(remote.absolute(path)), []
  folders = _folders(path, step)
  for folder in folders:
    try:
      found = stored.of(folder)
    except digests.Damaged as damage:
      # A training goes on meanwhile, and has deleted what it has replaced.
      if step < 0 and folders[0] != path and layout.is_replaced(folders[0]):
        return find(path, step)
      damages.append(damage)
      continue
    if damages:
      print(f"transfer-gen: {damages[0]} Instead, {found.title} is read.",
            file=sys.stderr, flush=True)
    return found
  raise damages[0]


def _folders(path: epath.Path, step: int) -> list[epath.Path]:
  """Returns the folder that is meant, and those that may stand for it if damaged."""
  if not path.exists():
    raise errors.UserError(f"{path}: there is no such file or folder.")
  if (path / layout.PARAMS).exists() and layout.is_step(path.name):
    return [path]
  root = path / layout.FOLDER if (path / layout.FOLDER).exists() else path
  if not root.is_dir():
    raise errors.UserError(f"{path}: not a checkpoint. {_WANTED}")
  steps, best = layout.steps(root), layout.steps(root / layout.BEST)
  # Both hold the same params at a step, but only `steps` has the optimizer state.
  if step < 0 and best:
    newest = max(best)
    return [best[newest], *([steps[newest]] if newest in steps else [])]
  if step >= 0:
    if found := [folders[step] for folders in (steps, best) if step in folders]:
      return found
    raise errors.UserError(
        f"{root}: no checkpoint of step {step}; there are {sorted({*steps, *best})}.")
  if steps:
    return [steps[newest] for newest in sorted(steps, reverse=True)]
  # A study keeps runs at STUDY/NAME/seed_0/lr_0.001, and any of these may be given.
  runs = sorted(str(run.relative_to(path)) for run in _runs(path, 3))
  raise errors.UserError(f"{path}: holds no checkpoint. " + (
      f"Give one of the runs in it: {', '.join(runs[:_SHOWN])}"
      f"{', ...' if runs[_SHOWN:] else ''}." if runs else _WANTED))


def _runs(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
  """Yields the workdirs at most so deep in a folder."""
  for inner in folder.iterdir() if depth else ():
    if (inner / layout.FOLDER).exists():
      yield inner
    elif inner.is_dir() and not os.path.islink(inner):
      yield from _runs(inner, depth - 1)
