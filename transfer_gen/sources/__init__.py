"""Checkpoints, ours and foreign: specs without arrays, leaves in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import jax

from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.formats import keras_h5
from transfer_gen.formats import llama2c_bin
from transfer_gen.formats import manifest
from transfer_gen.formats import numpy_files
from transfer_gen.formats import pytorch
from transfer_gen.formats import raw
from transfer_gen.formats import safetensors
from transfer_gen.formats import sharded
from transfer_gen.sources import word_vectors

_FILES = {
    ".safetensors": safetensors.open_file, ".npz": numpy_files.open_npz,
    ".h5": keras_h5.open_file, ".hdf5": keras_h5.open_file,
    ".keras": keras_h5.open_file, ".bin": pytorch.open_file,
    ".pt": pytorch.open_file, ".pth": pytorch.open_file,
    ".vec": word_vectors.WordVectors, ".txt": word_vectors.WordVectors,
    ".npy": word_vectors.WordVectors,
}


@dataclasses.dataclass(frozen=True)
class Memory:
  """A source that is in memory already.

  Attributes:
    specs: Spec of each leaf.
    arrays: The leaves.
  """
  specs: dict[str, tree.Spec]
  arrays: Mapping[str, Any]

  def read(
      self, names: Sequence[str],
      shardings: Mapping[str, jax.sharding.Sharding] | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says."""
    for name in names:
      where = shardings[name] if shardings else None
      yield name, jax.device_put(self.arrays[name], where)


def open(  # pylint: disable=redefined-builtin
    path: epath.PathLike, step: int = -1
) -> checkpoint.Stored | raw.Raw | word_vectors.WordVectors:
  """Opens a checkpoint: one of ours, a foreign one under its own names, or vectors.

  Args:
    path: A run's workdir or one of its checkpoints; a file, or a folder, of one of
      the formats beside this one. Which it is shows in its suffix and its files.
    step: Which checkpoint of a run. -1: the best, or the last where none was
      validated.

  Raises:
    errors.UserError: If nothing is there that can be read.
  """
  path = epath.Path(path)
  opener = _of_folder(path) if path.is_dir() else _of_file(path)
  if opener is None:
    return checkpoint.find(path, step)
  if step >= 0:
    raise errors.UserError(
        f"{path}: step {step} was asked for, and only checkpoints of runs have steps.")
  return opener()


def from_tree(arrays: Any, table: tree.AxesTable | None = None) -> Memory:
  """Any pytree of arrays as a source.

  Args:
    arrays: Leaves in `tree.Axes` boxes, or named by `table`.
    table: {regex over leaf names: axes, or (axes, reads)}.

  Raises:
    errors.UserError: If a leaf has no axes.
  """
  return Memory(tree.specs(arrays, table), tree.unbox(arrays))


def _of_folder(path: epath.Path) -> Callable[[], raw.Raw] | None:
  """How to open a folder; None: as a run's."""
  if any(p.name.isdecimal() or p.name == checkpoint.FOLDER for p in path.iterdir()):
    return None
  for name in ("model.safetensors.index.json", "model.safetensors",
               "pytorch_model.bin.index.json", "pytorch_model.bin",
               "adapter_model.safetensors"):
    if (path / name).exists():
      return _of_file(path / name)
  if (path / manifest.FILE).exists():
    return lambda: manifest.open_folder(path)
  if next(iter(path.glob("*.npy")), None) is not None:
    return lambda: numpy_files.open_folder(path)
  return None


def _of_file(path: epath.Path) -> Callable[[], raw.Raw] | None:
  """How to open a file; None: not at all."""
  if not path.is_file():
    return None
  if path.name.endswith(".index.json"):
    of_shard = (safetensors.open_file if ".safetensors." in path.name
                else pytorch.open_file)
    return lambda: sharded.open_index(path, of_shard)
  suffix = path.suffix.lower()
  if suffix == ".bin" and not pytorch.looks_like(path):
    return lambda: llama2c_bin.open_file(path)
  if suffix not in _FILES:
    raise errors.UserError(
        f"{path}: not a checkpoint by its name. Read are {', '.join(_FILES)},"
        " .index.json, and folders.")
  return lambda: _FILES[suffix](path)
