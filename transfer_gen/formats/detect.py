"""Which format a file or folder has, by its name and by the files in it."""

from collections.abc import Callable

from etils import epath

from transfer_gen.formats import keras_h5
from transfer_gen.formats import llama2c_bin
from transfer_gen.formats import manifest
from transfer_gen.formats import numpy_files
from transfer_gen.formats import pytorch
from transfer_gen.formats import raw
from transfer_gen.formats import safetensors
from transfer_gen.formats import sharded

_FILES = {
    ".safetensors": safetensors.open_file, ".npz": numpy_files.open_npz,
    ".h5": keras_h5.open_file, ".hdf5": keras_h5.open_file,
    ".keras": keras_h5.open_file, ".bin": pytorch.open_file,
    ".pt": pytorch.open_file, ".pth": pytorch.open_file,
}
_ADAPTER, _ADAPTED = "adapter_model.safetensors", "adapter_config.json"
Raw = raw.Raw
SUFFIXES = tuple(_FILES)
# The first of these files that a folder holds is the checkpoint, as in Transformers.
# Many folders have the same tensors twice: safetensors come before pickles because
# their format is stricter, and whole files before an index, which may have been left
# behind.
_IN_FOLDERS = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json", _ADAPTER,
    # Of TensorFlow, whose leaves can be listed alone.
    "tf_model.h5")


def opener_of(path: epath.PathLike) -> Callable[[], Raw] | None:
  """Returns the function that opens a checkpoint under its own names.

  Args:
    path: A file, or a folder that holds one.

  Returns:
    A function that opens the path, and raises `UserError` if it is damaged; or None if
    no format is recognized.
  """
  path = epath.Path(path)
  # What is returned is a function, so that a damaged file is still recognized, and
  # fails only when it is opened.
  if path.is_dir():
    return _opener_of_folder(path)
  return _opener_of_file(path) if path.is_file() else None


def _opener_of_folder(path: epath.Path) -> Callable[[], Raw] | None:
  for name in _IN_FOLDERS:
    if (path / name).exists():
      if name != _ADAPTER and (path / _ADAPTED).exists():
        return lambda: raw.refuse_both(path / name, path / _ADAPTER)
      return _opener_of_file(raw.inside(path / name))
  if (path / manifest.FILE).exists():
    return lambda: manifest.open_folder(path)
  if any(file.suffix == ".npy" for file in path.iterdir()):
    return lambda: numpy_files.open_folder(path)
  return None


def _opener_of_file(path: epath.Path) -> Callable[[], Raw] | None:
  if path.name.endswith(".index.json"):
    open_shard = (safetensors.open_file if ".safetensors." in path.name
                  else pytorch.open_file)
    return lambda: sharded.open_index(
        path, lambda shard: raw.opened(open_shard, shard))
  suffix = path.suffix.lower()
  # Both PyTorch and llama2.c write `.bin`; only PyTorch's begins with a known magic.
  if suffix == ".bin" and not pytorch.looks_like(path):
    return lambda: raw.opened(llama2c_bin.open_file, path)
  return (lambda: raw.opened(_FILES[suffix], path)) if suffix in _FILES else None
