"""Writes and reads checkpoints; the only module that uses Orbax.

The folder `checkpoints/` of a run holds `<step>/` with params, optimizer state and
facts (axes, data position, plan) as JSON, and `best/<step>/` without optimizer state.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import logging
import os
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from transfer_gen import best_link
from transfer_gen import errors
from transfer_gen import plain_path
from transfer_gen import tree

Specs = Mapping[str, tree.Spec]
FOLDER, BEST = "checkpoints", "best"
_SHOWN = 24  # Runs that an error lists.
OWN = "distill/"  # Leaves that only training reads; `find` leaves them out.
_STATE = "opt_state"
# Bytes read at once. Each call costs about 30 ms: reading leaf by leaf took 2.5 times
# as long as reading all at once, and 64 MB at a time took 1.2 times as long. Larger
# batches need more memory.
_BATCH = 64 * 2**20
# Bytes. Of arrays that all devices hold, each device writes a slice, which takes a
# program for each slice. One device writes those whose slices would be smaller: runs of
# small models on eight devices then took a fifth less time.
_SLICE = 2**20


class Checkpoints:
  """The checkpoints of one run, written in the background.

  Args:
    workdir: Workdir of the run.
    keep: How many of the newest checkpoints stay; older ones are deleted. The best one
      is kept besides.
  """

  def __init__(self, workdir: epath.PathLike, keep: int = 2):
    folder = epath.Path(workdir).resolve() / FOLDER  # Orbax needs an absolute path.
    _configure()
    # Two managers: `keep` counts the newest steps, and one manager would delete the
    # best step once it is old.
    self._last = _manager(folder, keep)
    self._best = _manager(folder / BEST, 1)

  def save(
      self, step: int, params: Mapping[str, Any], opt_state: Any,
      facts: Mapping[str, Any],
  ) -> None:
    """Starts writing a checkpoint from which training can go on.

    Args:
      step: Number of updates so far.
      params: Arrays by name.
      opt_state: The optimizer state.
      facts: JSON types to store beside the arrays.
    """
    # The caller decides when to save: without `force`, Orbax's own policy would ask
    # whether the step is due.
    self._last.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(tree.unflatten(params)),
        opt_state=ocp.args.StandardSave(opt_state),
        facts=ocp.args.JsonSave(dict(facts))), force=True)

  def amend(self, step: int, facts: Mapping[str, Any]) -> None:
    """Replaces the facts of a checkpoint, once it is complete.

    A process that is killed in this leaves either the old facts or the new ones.

    Args:
      step: Step of a checkpoint that `save` has begun to write.
      facts: As of `save`.
    """
    self._last.wait_until_finished()
    # Orbax writes the JSON of an item to this file. Renaming replaces it in one step,
    # where saving the item again would first delete it.
    path = epath.Path(self._last.directory) / str(step) / "facts" / "metadata"
    assert path.exists()
    fresh = path.parent / "metadata.new"
    fresh.write_text(json.dumps(dict(facts)))
    fresh.replace(path)

  def save_best(
      self, step: int, params: Mapping[str, Any], facts: Mapping[str, Any]
  ) -> None:
    """Starts writing the params with the best validation; replaces earlier ones."""
    # A run that was killed after this and before its next `save` goes on from an older
    # step and arrives here again, with the same params.
    if step in self._best.all_steps():
      return
    self._best.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(tree.unflatten(params)),
        facts=ocp.args.JsonSave(dict(facts))), force=True)

  def last_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    return self._last.latest_step()

  def remove(self, step: int) -> bool:
    """Removes the checkpoint of a step; returns whether there was one."""
    found = [manager for manager in (self._last, self._best)
             if step in manager.all_steps()]
    for manager in found:
      manager.delete(step)
    return bool(found)

  def facts(self, step: int) -> dict[str, Any]:
    """Returns the facts that `save` stored beside the arrays."""
    return self._last.restore(
        step, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]

  def restore(
      self, step: int, params: Mapping[str, Any], opt_state: Any
  ) -> tuple[dict[str, Any], Any]:
    """Reads a checkpoint back.

    Args:
      step: Step of the checkpoint.
      params: `jax.ShapeDtypeStruct`s with shardings, by name.
      opt_state: The optimizer state as `jax.ShapeDtypeStruct`s with shardings.

    Returns:
      Params by name, and the optimizer state.
    """
    restored = self._last.restore(step, args=ocp.args.Composite(
        params=ocp.args.StandardRestore(tree.unflatten(params)),
        opt_state=ocp.args.StandardRestore(opt_state)))
    return tree.flatten(restored["params"]), restored["opt_state"]

  def wait(self) -> None:
    """Waits until everything that was saved is on disk."""
    self._last.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    """Waits, and releases the folder."""
    self._last.close()
    self._best.close()


@dataclasses.dataclass(frozen=True)
class Stored:
  """One checkpoint on disk, and what is known of it without reading arrays.

  Attributes:
    path: Folder of the checkpoint.
    step: Number of updates after which it was written.
    specs: Spec of each param, by name.
    facts: The facts that were saved beside the arrays.
  """
  path: epath.Path
  step: int
  specs: dict[str, tree.Spec]
  facts: dict[str, Any]

  @property
  def title(self) -> str:
    """One line that says which checkpoint this is."""
    return f"{self.path}: step {self.step}"

  @property
  def constants(self) -> dict[str, Any]:
    """Constants that the model uses beside its params; {} if they were not stored."""
    return self.facts.get("constants", {})

  @property
  def scales(self) -> dict[str, float]:
    """Factors on low-rank leaves at run time, by name."""
    return self.facts.get("scales", {})

  @functools.cached_property
  def state(self) -> dict[tuple[Any, ...], jax.ShapeDtypeStruct]:
    """Shapes of the optimizer state, by the keys on the way to each leaf."""
    if not (self.path / _STATE).exists():
      return {}
    return {_keys(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_flatten_with_path(
                _shapes(self.path / _STATE))[0]}

  def read_state(
      self, where: Mapping[tuple[Any, ...], jax.sharding.Sharding | None]
  ) -> dict[tuple[Any, ...], jax.Array]:
    """Reads leaves of the optimizer state.

    Args:
      where: Sharding of each leaf to read, by the keys of `state`. None means the
        default device.

    Returns:
      Arrays by the same keys.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = _shapes(self.path / _STATE)
    groups = {path[0] for path in where}

    # A group that is not wanted is left out as a whole; inside a wanted one, Orbax
    # needs an entry for each leaf, and skips the bytes of those with a placeholder.
    def wanted(path: tuple[Any, ...], leaf: Any) -> Any:
      if _keys(path) not in where:
        return ocp.PLACEHOLDER
      return jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=where[_keys(path)] or device)

    item = jax.tree_util.tree_map_with_path(
        wanted, {group: shapes[group] for group in groups})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      read = reader.restore(
          plain_path.of(self.path) / _STATE, args=ocp.args.PyTreeRestore(
              item=item, partial_restore=True,
              restore_args=ocp.checkpoint_utils.construct_restore_args(item)))
    return {_keys(path): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(read)[0]
            # What was not read comes back as a placeholder.
            if _keys(path) in where}

  def read(
      self, names: Sequence[str],
      shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in bounded batches; reads no other leaf.

    Args:
      names: Names of leaves in `specs`.
      shardings: Where each leaf lives. If None, on the default device.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      for batch in self._batches(names):
        item = {name: jax.ShapeDtypeStruct(
            self.specs[name].shape, self.specs[name].dtype,
            sharding=shardings[name] if shardings else device) for name in batch}
        item = tree.unflatten(item)
        restored = tree.flatten(reader.restore(
            plain_path.of(self.path) / "params", args=ocp.args.PyTreeRestore(
                item=item, partial_restore=True,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item))))
        while restored:  # Popped, so that nothing here keeps an array alive.
          yield restored.popitem()

  def _batches(self, names: Sequence[str]) -> Iterator[list[str]]:
    """Yields names in batches; the last are smaller, because memory is full then."""
    batch, size = [], 0
    left = sum(self.specs[name].nbytes for name in names)
    for name in names:
      # Not below a quarter of a batch, because each call takes time of its own.
      limit = min(_BATCH, max(left // 2, _BATCH // 4))
      if batch and size + self.specs[name].nbytes > limit:
        yield batch
        left -= size
        batch, size = [], 0
      batch.append(name)
      size += self.specs[name].nbytes
    if batch:
      yield batch


def _shapes(folder: epath.Path) -> Any:
  """Returns a stored tree, with metadata in place of its leaves."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.metadata(plain_path.of(folder)).item_metadata.tree


def _keys(path: tuple[Any, ...]) -> tuple[Any, ...]:
  return tuple(getattr(entry, "key", getattr(entry, "idx", None)) for entry in path)


def axes_facts(specs: Mapping[str, tree.Spec]) -> dict[str, Any]:
  """Returns the axes of params as JSON types, for `facts["axes"]`.

  `find` needs them, because Orbax stores no axis names.
  """
  return {name: {"axes": list(spec.axes), "reads": list(spec.reads)}
          for name, spec in specs.items()}


def find(path: epath.PathLike, step: int = -1) -> Stored:
  """Finds a checkpoint and reads its metadata.

  Args:
    path: A run's workdir, its `checkpoints/`, or one checkpoint's folder; or the folder
      of a study or of a search, which stands for its best run.
    step: Step of the checkpoint in a run. -1 means the best one, or the last one if
      none was validated.

  Raises:
    errors.UserError: If there is no such checkpoint, or it is incomplete.
  """
  _configure()
  folder = _folder(best_link.follow(epath.Path(path).resolve()), step)
  leaves, facts = _metadata(folder)
  specs = {}
  for name, leaf in leaves.items():
    if name.startswith(OWN):
      continue
    axes = facts["axes"][name]
    specs[name] = tree.Spec(
        shape=tuple(leaf.shape), dtype=np.dtype(leaf.dtype),
        axes=tuple(axes["axes"]), reads=tuple(axes["reads"]))
  return Stored(path=folder, step=int(folder.name), specs=specs, facts=facts)


def _metadata(folder: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns leaves by name, and the facts that were saved beside them."""
  try:
    leaves = _shapes(folder / "params")
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      facts = reader.restore(plain_path.of(folder) / "facts")
    leaves = tree.flatten(leaves)
    # A leaf without axes cannot be related to any target; the error is caught below.
    assert leaves.keys() == facts["axes"].keys()
  except (AttributeError, AssertionError, KeyError, TypeError, ValueError,
          OSError) as error:
    raise errors.UserError(
        f"{folder}: not a complete checkpoint of transfer_gen ({type(error).__name__}:"
        f" {str(error)[:200]}). Take another step, or train again.") from error
  return leaves, facts


def _folder(path: epath.Path, step: int) -> epath.Path:
  if not path.exists():
    raise errors.UserError(f"{path}: there is no such file or folder.")
  # The folder of a step is named by its number alone. While Orbax writes it, the name
  # ends in `.orbax-checkpoint-tmp`, so an unfinished checkpoint is never found here.
  if (path / "params").exists() and path.name.isdigit():
    return path
  root = path / FOLDER if (path / FOLDER).exists() else path
  if not root.is_dir():
    raise errors.UserError(f"{path}: not a checkpoint. {_WANTED}")
  steps = {int(p.name): p for p in root.iterdir() if p.name.isdigit()}
  best = {}
  if (root / BEST).exists():
    best = {int(p.name): p for p in (root / BEST).iterdir() if p.name.isdigit()}
  if step >= 0:
    # Both hold the same params, but only the first also holds the optimizer state.
    found = steps.get(step) or best.get(step)
    if found is None:
      raise errors.UserError(
          f"{root}: no checkpoint of step {step}; there are"
          f" {sorted({*steps, *best})}.")
    return found
  for candidates in (best, steps):
    if candidates:
      return candidates[max(candidates)]
  # A study keeps runs at STUDY/NAME/seed_0/lr_0.001, and any of these may be given.
  runs = sorted(str(run.relative_to(path)) for run in _runs(path, 3))
  raise errors.UserError(f"{path}: holds no checkpoint. " + (
      f"Give one of the runs in it: {', '.join(runs[:_SHOWN])}"
      f"{', ...' if runs[_SHOWN:] else ''}." if runs else _WANTED))


def _runs(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
  """Yields the workdirs at most so deep in a folder."""
  for inner in folder.iterdir() if depth else ():
    if (inner / FOLDER).exists():
      yield inner
    elif inner.is_dir() and not os.path.islink(inner):
      yield from _runs(inner, depth - 1)


_WANTED = ("Give the workdir of a run that has trained, or one of the folders in its"
           " checkpoints/.")


def _manager(folder: epath.Path, keep: int) -> ocp.CheckpointManager:
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
  return ocp.CheckpointManager(plain_path.of(folder), options=options)


def _configure() -> None:
  """Settings of Orbax for all checkpoints of this process."""
  # Orbax would write a line about each step of each save to the user's log.
  logging.getLogger("absl").setLevel(logging.ERROR)
  ocp.type_handlers.register_type_handler(jax.Array, ocp.type_handlers.ArrayHandler(
      min_slice_bytes_for_replica_parallel=_SLICE), override=True)
