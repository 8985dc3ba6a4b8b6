"""A checkpoint on disk, whose leaves are read when they are asked for."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from transfer_gen import global_arrays
from transfer_gen import plain_path
from transfer_gen import tree
from transfer_gen.checkpoint import digests
from transfer_gen.checkpoint import layout
from transfer_gen.checkpoint import whole_files

Specs = Mapping[str, tree.Spec]
OWN = "distill/"  # Leaves that only training reads; `find` leaves them out.
# Bytes read at once. Each call costs about 30 ms: reading leaf by leaf took 2.5 times
# as long as reading all at once, and 64 MB at a time took 1.2 times as long. Larger
# batches need more memory.
_BATCH = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Stored:
  """One checkpoint on disk, and what is known of it without reading arrays.

  Attributes:
    path: Folder of the checkpoint.
    step: Number of updates after which it was written.
    specs: Spec of each param, by name.
    facts: The facts that were saved beside the arrays.
    digests: Digests of the params and of the optimizer state, by name.
  """
  path: epath.Path
  step: int
  specs: dict[str, tree.Spec]
  facts: dict[str, Any]
  digests: dict[str, dict[str, str]]

  @property
  def title(self) -> str:
    """One line that says which checkpoint this is."""
    return f"{self.path}: step {self.step}"

  @property
  def is_replaced(self) -> bool:
    """Whether a training has written a newer one since, and may delete this one."""
    return layout.is_replaced(self.path)

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
    if not (self.path / layout.STATE).exists():
      return {}
    return {digests.keys(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_flatten_with_path(
                layout.shapes(self.path / layout.STATE))[0]}

  def read_state(
      self, where: Mapping[tuple[Any, ...], jax.sharding.Sharding | None]
  ) -> dict[tuple[Any, ...], jax.Array]:
    """Reads leaves of the optimizer state.

    Args:
      where: Sharding of each leaf to read, by the keys of `state`. None means the
        default device.

    Returns:
      Arrays by the same keys.

    Raises:
      digests.Damaged: If a leaf is not what was saved.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with digests.reading(self.path):
      shapes = layout.shapes(self.path / layout.STATE)
      digests.check_kinds(
          digests.leaves(shapes), self.digests[layout.STATE], self.path)
    groups = {path[0] for path in where}

    # A group that is not wanted is left out as a whole; inside a wanted one, Orbax
    # needs an entry for each leaf, and skips the bytes of those with a placeholder.
    def wanted(path: tuple[Any, ...], leaf: Any) -> Any:
      if digests.keys(path) not in where:
        return ocp.PLACEHOLDER
      return jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=where[digests.keys(path)] or device)

    item = jax.tree_util.tree_map_with_path(
        wanted, {group: shapes[group] for group in groups})
    with digests.reading(self.path), ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler()) as reader:
      read = reader.restore(
          plain_path.of(self.path) / layout.STATE, args=ocp.args.PyTreeRestore(
              item=item, partial_restore=True,
              restore_args=ocp.checkpoint_utils.construct_restore_args(item)))
    found = {digests.keys(path): leaf
             for path, leaf in jax.tree_util.tree_flatten_with_path(read)[0]
             # What was not read comes back as a placeholder.
             if digests.keys(path) in where}
    digests.check({"/".join(map(str, path)): leaf for path, leaf in found.items()},
                  self.digests[layout.STATE], self.path)
    return found

  def read(
      self, names: Sequence[str],
      shardings: Mapping[str, jax.sharding.Sharding] | None = None,
      picks: Mapping[str, Mapping[int, np.ndarray]] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in bounded batches; reads no other leaf.

    Args:
      names: Names of leaves in `specs`.
      shardings: Where each leaf lives. If None, on the default device.
      picks: What is taken of a leaf, as `global_arrays.take` does.

    Raises:
      digests.Damaged: If a leaf is not what was saved.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where, picks = shardings or dict.fromkeys(names, device), picks or {}
    # A leaf is checked against its digest before anything is taken of it, so that its
    # devices read all of it together.
    held = {name: global_arrays.fitting(
        where[name], self.specs[name].shape, picks.get(name, ())) for name in names}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      for batch in self._batches(names):
        item = {name: jax.ShapeDtypeStruct(
            self.specs[name].shape, self.specs[name].dtype,
            sharding=held[name]) for name in batch}
        item = tree.unflatten(item)
        with digests.reading(self.path):
          restored = tree.flatten(reader.restore(
              plain_path.of(self.path) / layout.PARAMS, args=ocp.args.PyTreeRestore(
                  item=item, partial_restore=True,
                  restore_args=ocp.checkpoint_utils.construct_restore_args(item))))
        digests.check(restored, self.digests[layout.PARAMS], self.path)
        while restored:  # Popped, so that nothing here keeps an array alive.
          name, value = restored.popitem()
          yield name, value if name not in picks else global_arrays.take(
              value, picks[name], where[name])

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


def of(folder: epath.Path) -> Stored:
  """Returns the checkpoint in a folder whose name is its step.

  Raises:
    digests.Damaged: If something is missing, or a file is not the one that was saved.
  """
  whole_files.check(folder, unread=layout.STATE)
  with digests.reading(folder):
    facts, saved = digests.unseal(layout.read_facts(folder))
    assert any((folder / layout.PARAMS).iterdir())
    specs = {}
    # Not from Orbax's own metadata: opening each array takes time, and TensorStore
    # keeps some KB of memory for each.
    for name, axes in facts["axes"].items():
      if not name.startswith(OWN):
        dtype, shape = digests.spec(saved[layout.PARAMS][name])
        specs[name] = tree.Spec(shape=shape, dtype=dtype, axes=tuple(axes["axes"]),
                                reads=tuple(axes["reads"]))
  return Stored(path=folder, step=int(folder.name), specs=specs, facts=facts,
                digests=saved)


def axes_facts(specs: Mapping[str, tree.Spec]) -> dict[str, Any]:
  """Returns the axes of params as JSON types, for `facts["axes"]`.

  `find` needs them, because Orbax stores no axis names.
  """
  return {name: {"axes": list(spec.axes), "reads": list(spec.reads)}
          for name, spec in specs.items()}
