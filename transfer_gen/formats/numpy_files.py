"""Reads NumPy's own files: `.npz`, and folders of `.npy`.

Format: numpy.lib.format. Arrays of objects, which are pickles, are refused.
"""

import dataclasses
import math
from typing import IO
import zipfile

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import archive
from transfer_gen.formats import raw

NPZ, FOLDER = ".npz file", "folder of .npy files"
# Version 3 differs only in the encoding of field names, which arrays of numbers lack.
# NumPy itself bounds the length of a header and parses it as a literal.
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Compressed:
  """A leaf in a compressed member of an archive.

  Attributes:
    path: The archive.
    info: The member.
    extent: Where the leaf lies in the uncompressed member.
  """
  path: epath.Path
  info: zipfile.ZipInfo
  extent: raw.Extent

  @property
  def shape(self) -> tuple[int, ...]:
    """Sizes."""
    return self.extent.shape

  @property
  def dtype(self) -> np.dtype:
    """As stored."""
    return self.extent.dtype

  def read(self, entries: raw.Entries | None = None) -> np.ndarray:
    """Decompresses the whole member and checks its checksum."""
    with (untrusted.opened(self.path) as file, zipfile.ZipFile(file) as zipped,
          zipped.open(self.info) as member):
      # The header is read and dropped: a compressed member has no address to go to.
      raw.fill(member, self.extent.offset)
      value = raw.assemble(member, self.extent)
    return raw.part_of(value, entries)


class Objects(errors.UserError):
  """A file of arrays holds one of objects, which is a pickle."""


def open_npz(path: epath.Path) -> raw.Raw:
  """Opens an archive of arrays and reads only their headers.

  Raises:
    errors.UserError: If it is malformed, or a member is no array of numbers.
  """
  with raw.malformed(path, NPZ):
    leaves = {name.removesuffix(".npy"): _member(path, name, info)
              for name, info in archive.members(path).items()}
  return raw.Raw(path, NPZ, leaves)


def open_folder(path: epath.Path) -> raw.Raw:
  """Opens a folder of `.npy` files; each leaf has the name of its file.

  Raises:
    errors.UserError: If a file is malformed or no array of numbers.
  """
  leaves = {file.name.removesuffix(".npy"): leaf(untrusted.inside(file))
            for file in sorted(path.iterdir()) if file.suffix == ".npy"}
  return raw.Raw(path, FOLDER, leaves)


def leaf(path: epath.Path) -> raw.Extent:
  """Opens one `.npy` file and reads only its header.

  Raises:
    errors.UserError: If the file is malformed or no array of numbers.
  """
  with raw.malformed(path, ".npy file"):
    length = path.stat().length
    with untrusted.opened(path) as file:
      return _header(file, path, length)


def _member(path: epath.Path, name: str, info: zipfile.ZipInfo) -> raw.Leaf:
  if not name.endswith(".npy"):
    raise errors.UserError(f"{name} is no array.")
  if archive.stored(info):
    start = archive.offset(path, info)
    with untrusted.opened(path) as file:
      file.seek(start)
      return _header(file, path, start + info.file_size)
  with (untrusted.opened(path) as file, zipfile.ZipFile(file) as zipped,
        zipped.open(info) as member):
    return _Compressed(
        path=path, info=info, extent=_header(member, path, info.file_size))


def _header(file: IO[bytes], path: epath.Path, end: int) -> raw.Extent:
  """Reads the header at the file's position; the array must end at `end`."""
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise errors.UserError(f"an array of format {version}, which holds no numbers.")
  shape, fortran, dtype = _HEADERS[version](file)
  # Objects would be unpickled, which runs code.
  if dtype.kind == "O":
    raise Objects("an array of objects, which is a pickle, could run code, and is not"
                  " read.")
  # NumPy writes bfloat16 as plain bytes
  # (kind V), which could be anything.
  if dtype.kind not in "biuf":
    raise errors.UserError(
        f"an array of dtype {dtype}, and only numbers are read."
        " bfloat16 has no dtype there: save float32, or safetensors.")
  shape, strides = raw.sizes(shape), None
  if fortran:
    strides = tuple(math.prod(shape[:dim]) for dim in range(len(shape)))
  found = raw.Extent(path=path, offset=file.tell(), shape=shape, dtype=dtype,
                     strides=strides)
  # A file that is longer than its header says is as suspicious as a shorter one.
  if found.offset + found.nbytes != end:
    raise errors.UserError(
        f"an array {dtype}{shape} takes {found.nbytes} bytes, and"
        f" {end - found.offset} are there. Fetch or save it again.")
  return found
