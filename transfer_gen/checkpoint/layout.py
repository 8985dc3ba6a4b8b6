"""Where a run keeps its checkpoints, and how this package sets Orbax up."""

from collections.abc import Mapping
import contextlib
import functools
import json
import logging
import re
import sys
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from transfer_gen import lock
from transfer_gen import plain_path
from transfer_gen import remote
from transfer_gen import sealed
from transfer_gen import untrusted

FOLDER, BEST = "checkpoints", "best"  # In a workdir, and in `checkpoints/`.
# In a checkpoint; not all have others.
PARAMS, STATE, OTHERS, FACTS = "params", "opt_state", "others", "facts"
_LOCK = ".lock"  # In `checkpoints/`.
_JSON = "metadata"  # In `facts/`, where Orbax keeps it.
_NOTES = "_CHECKPOINT_METADATA"  # Of Orbax, on when it has saved what.
# Bytes. Of arrays that all devices hold, each device writes a slice, which takes a
# program for each slice. One device writes those whose slices would be smaller: runs of
# small models on eight devices then took a fifth less time.
_SLICE = 2**20
# Bytes. An array is compressed in chunks, of which a process reads those that it needs
# parts of. One that a single device holds would be one chunk otherwise.
_CHUNK = 4 * 2**20


def configure() -> None:
  """Settings of Orbax for all checkpoints of this process."""
  # Orbax would write a line about each step of each save to the user's log, and where
  # one fails, a traceback from each of its threads. It raises the error as well.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  _hide_closed_loops()
  ocp.type_handlers.register_type_handler(jax.Array, ocp.type_handlers.ArrayHandler(
      min_slice_bytes_for_replica_parallel=_SLICE), override=True)


@functools.cache
def _hide_closed_loops() -> None:
  """Hides what Python prints where a read of TensorStore ends after its event loop.

  That happens where a damaged array ends the reading of a checkpoint early. Python
  cannot raise it anywhere, and prints a traceback beside our own message.
  """
  show = sys.unraisablehook

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = hook


def manager(folder: epath.Path, keep: int, every: int = 0) -> ocp.CheckpointManager:
  """Returns what writes checkpoints into a folder.

  Args:
    folder: The folder, which is made if it is missing.
    keep: Number of the newest checkpoints that stay.
    every: Those whose step is a multiple of it stay as well; 0: none for that.
  """
  remote.check_workdir(folder)
  folder.mkdir(parents=True, exist_ok=True)
  # Processes that train together meet at barriers, whose names have the step alone: at
  # one step there may be a checkpoint here and one of the best params.
  options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, keep_period=every or None, create=True,
      multiprocessing_options=ocp.options.MultiprocessingOptions(
          barrier_sync_key_prefix=folder.name))
  make = lambda: ocp.CheckpointManager(plain_path.of(folder), options=options)
  try:
    return make()
  except (AttributeError, LookupError, TypeError, ValueError):
    # Orbax reads its notes on all checkpoints, and stumbles over a damaged one. Nothing
    # else reads them: without it Orbax goes on, and where files are sealed, a missing
    # one still shows that the checkpoint is damaged.
    for path in steps(folder).values():
      if not (path / sealed.FILE).exists() or _NOTES in sealed.changed(path):
        (path / _NOTES).unlink(missing_ok=True)
    return make()


def saving(arrays: Any) -> ocp.args.StandardSave:
  """Returns how Orbax saves a tree of arrays."""
  return ocp.args.StandardSave(arrays, save_args=jax.tree.map(
      lambda x: ocp.SaveArgs(chunk_byte_size=_CHUNK if x.nbytes > _CHUNK else None),
      arrays))


def alone(folder: epath.Path, busy: str) -> contextlib.AbstractContextManager[None]:
  """Lets no other command write into a folder; arguments as of `lock.hold`."""
  return lock.hold(folder / _LOCK, busy)


def steps(folder: epath.Path) -> dict[int, epath.Path]:
  """Returns the checkpoints in a folder by their steps."""
  return {int(path.name): untrusted.inside(path) for path in folder.iterdir()
          if is_step(path.name)} if folder.is_dir() else {}


def is_step(name: str) -> bool:
  """Returns whether a folder of this name may hold a checkpoint."""
  # A step's number alone, as Orbax writes it: not "007", nor other digits of Unicode.
  # While a folder is being written, its name ends in `.orbax-checkpoint-tmp`.
  return re.fullmatch("0|[1-9][0-9]{0,18}", name) is not None


def is_replaced(folder: epath.Path) -> bool:
  """Whether a training has written a newer checkpoint beside this one.

  It then deletes this one, maybe while another process reads it.
  """
  return max(steps(folder.parent), default=0) > int(folder.name)


def shapes(folder: epath.Path) -> Any:
  """Returns a stored tree, with metadata in place of its leaves."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.metadata(plain_path.of(folder)).item_metadata.tree


def facts_path(folder: epath.Path) -> epath.Path:
  """Returns where the JSON is that was saved beside the arrays of a checkpoint."""
  return folder / FACTS / _JSON


def read_facts(folder: epath.Path) -> dict[str, Any]:
  """Returns the JSON that was saved beside the arrays of a checkpoint."""
  # Not by Orbax, whose reader keeps 20 KB of memory for each call.
  return untrusted.read_json(untrusted.inside(facts_path(folder), folder))


def write_facts(folder: epath.Path, facts: Mapping[str, Any]) -> None:
  """Replaces the JSON of a checkpoint."""
  path = facts_path(folder)
  fresh = path.with_name(f"{_JSON}.new")
  untrusted.make_way(fresh)
  fresh.write_text(json.dumps(facts))
  # Renaming replaces the file in one step, where saving the item again would first
  # delete it.
  fresh.replace(path)
