"""Reads a folder of raw little-endian float32 tensors with a `manifest.json`.

The form in which deeplearn.js, and ml5 after it, ship TensorFlow 1 checkpoints:
{leaf: {"filename": ..., "shape": [...]}}.
"""

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.formats import raw

KIND = "folder of float32 tensors"
FILE = "manifest.json"


def open_folder(path: epath.Path) -> raw.Raw:
  """Opens a folder and reads only its manifest.

  Raises:
    errors.UserError: If the manifest is malformed, or a file is missing or of another
      size than its shape.
  """
  with raw.malformed(path, KIND):
    leaves = {name: _leaf(path, name, entry)
              for name, entry in raw.read_json(path / FILE).items()}
  return raw.Raw(path, KIND, leaves)


def _leaf(folder: epath.Path, name: str, entry) -> raw.Extent:
  # An unknown key could change what the bytes mean (a dtype, a quantisation), so it is
  # refused.
  if not isinstance(entry, dict) or entry.keys() != {"filename", "shape"}:
    raise errors.UserError(f"{FILE} gives {name} no filename and shape, or more.")
  leaf = raw.Extent(
      path=raw.beside(folder, entry["filename"]), offset=0,
      shape=raw.sizes(entry["shape"]), dtype=np.dtype("<f4"))
  # The files have no header: their length is the only check on their shape.
  found = leaf.path.stat().length
  if found != leaf.nbytes:
    raise errors.UserError(
        f"{name} {leaf.shape} takes {leaf.nbytes} bytes, and {leaf.path.name} has"
        f" {found}. Fetch it again.")
  return leaf
