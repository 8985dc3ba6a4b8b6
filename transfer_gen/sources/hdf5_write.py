"""Writes HDF5: arrays in groups, nothing else. What h5py and Keras read.

Format: HDF5 File Format Specification 3.0, https://docs.hdfgroup.org; its sections are
given below. Superblock 0, object headers 1, links in their group's header.
"""

from collections.abc import Mapping
import struct
from typing import BinaryIO

from etils import epath
import numpy as np

from transfer_gen import errors

_SUPERBLOCK = 96
_UNDEFINED = 2**64 - 1
_MESSAGES = 2**16 - 1  # Bytes of one, and how many.
# Of each size: exponent's and mantissa's places, and the exponent's bias.
_FLOATS = {2: (15, 10, 5, 0, 10, 15), 4: (31, 23, 8, 0, 23, 127),
           8: (63, 52, 11, 0, 52, 1023)}


def write(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a file.

  Args:
    path: Where to; what is there is replaced.
    arrays: By name, with groups before slashes; floats and integers.

  Raises:
    errors.UserError: If a name is a group as well, or an array is of another type.
  """
  tree: dict = {}
  for name, array in arrays.items():
    *groups, last = name.split("/")
    node = tree
    for group in groups:
      node = node.setdefault(group, {})
      if not isinstance(node, dict):
        raise errors.UserError(f"{name}: {group} is an array and a group.")
    if last in node:
      raise errors.UserError(f"{name} is an array and a group.")
    node[last] = np.ascontiguousarray(array)
  with path.open("wb") as file:
    file.write(bytes(_SUPERBLOCK))
    root = _group(file, tree)
    end = file.tell()
    file.seek(0)
    # Section II.A: sizes 8 and 8, ranks of trees that are not used, one entry.
    file.write(b"\x89HDF\r\n\x1a\n" + struct.pack(
        "<BBBBBBBBHHIQQQQQQII16x", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0,
        0, _UNDEFINED, end, _UNDEFINED, 0, root, 0, 0))


def _group(file: BinaryIO, node: Mapping) -> int:
  """Writes what is in a group, then the group; returns where it lies."""
  links = {name: _group(file, child) if isinstance(child, dict)
           else _dataset(file, child) for name, child in node.items()}
  # Sections IV.A.2.c, IV.A.2.k and IV.A.2.g.
  messages = [(2, struct.pack("<BBQQ", 0, 0, _UNDEFINED, _UNDEFINED)),
              (10, struct.pack("<BB", 0, 0))]
  for name, address in links.items():
    text = name.encode("utf-8")
    messages.append((6, struct.pack("<BBBH", 1, 0x11, 1, len(text)) + text
                     + struct.pack("<Q", address)))
  return _object(file, messages)


def _dataset(file: BinaryIO, array: np.ndarray) -> int:
  datatype = _datatype(array.dtype)
  where = _aligned(file)
  file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
  shape = struct.pack(f"<BBB5x{array.ndim}Q", 1, array.ndim, 0, *array.shape)
  # Sections IV.A.2.b, IV.A.2.d, IV.A.2.f (none) and IV.A.2.i (contiguous).
  return _object(file, [
      (1, shape), (3, datatype), (5, struct.pack("<BBBB", 2, 2, 2, 0)),
      (8, struct.pack("<BBQQ", 3, 1, where if array.size else _UNDEFINED,
                      array.nbytes))])


def _datatype(dtype: np.dtype) -> bytes:
  """Section IV.A.2.d, little-endian."""
  size = dtype.itemsize
  if dtype.kind == "f" and size in _FLOATS:
    sign, *fields = _FLOATS[size]
    return struct.pack("<BBBBIHHBBBBI", 0x11, 0x20, sign, 0, size, 0, 8 * size, *fields)
  if dtype.kind in "iu":
    return struct.pack("<BBBBIHH", 0x10, 8 * (dtype.kind == "i"), 0, 0, size, 0,
                       8 * size)
  raise errors.UserError(f"HDF5 files here hold no {dtype}; cast it to float32.")


def _object(file: BinaryIO, messages: list[tuple[int, bytes]]) -> int:
  """An object's header (section IV.A.1.a)."""
  body = b""
  for kind, data in messages:
    data += bytes(-len(data) % 8)
    body += struct.pack("<HHB3x", kind, len(data), 0) + data
  assert len(messages) <= _MESSAGES, "a group of too many"
  where = _aligned(file)
  file.write(struct.pack("<BBHII4x", 1, 0, len(messages), 1, len(body)) + body)
  return where


def _aligned(file: BinaryIO) -> int:
  file.write(bytes(-file.tell() % 8))
  return file.tell()
