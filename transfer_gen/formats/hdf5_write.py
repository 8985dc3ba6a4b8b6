"""Writes HDF5 files that h5py and Keras read.

A file holds arrays in groups; groups have text attributes.

Format: HDF5 File Format Specification 3.0, https://docs.hdfgroup.org; its sections are
given below. Superblock 0, object headers 1, links in their group's header.
"""

from collections.abc import Iterable, Mapping, Sequence
import struct
from typing import IO

from etils import epath
import numpy as np

from transfer_gen import errors

_SUPERBLOCK = 96
_UNDEFINED = 2**64 - 1
_MESSAGES = 2**16 - 1  # Bytes of one, and how many.
# Of each size: exponent's and mantissa's places, and the exponent's bias.
_FLOATS = {2: (15, 10, 5, 0, 10, 15), 4: (31, 23, 8, 0, 23, 127),
           8: (63, 52, 11, 0, 52, 1023)}


Texts = str | Sequence[str]


def write(
    path: epath.Path, arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Mapping[str, Texts]] | None = None,
) -> None:
  """Writes a file.

  Args:
    path: The file to write. An existing file is replaced.
    arrays: Arrays of floats or integers by name, e.g. `group/inner/name`.
    attributes: Attributes by group and name, each a text or a list of texts; "" is the
      root group. Groups without arrays are created. If None, there are none.

  Raises:
    errors.UserError: If a name is a group as well, or an array is of another type.
  """
  tree = _tree(arrays, attributes or ())
  with path.open("wb") as file:
    # Room for the superblock, which is written last: it holds the addresses of the root
    # and of the end, which are known only then.
    file.write(bytes(_SUPERBLOCK))
    root = _group(file, tree, attributes or {})
    end = file.tell()
    file.seek(0)
    # Section II.A: sizes 8 and 8, ranks of trees that are not used, one entry.
    file.write(b"\x89HDF\r\n\x1a\n" + struct.pack(
        "<BBBBBBBBHHIQQQQQQII16x", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0,
        0, _UNDEFINED, end, _UNDEFINED, 0, root, 0, 0))


def _tree(arrays: Mapping[str, np.ndarray], groups: Iterable[str]) -> dict:
  """Returns a dict for each group, which holds its arrays and the groups in it."""
  tree: dict = {}
  for group in filter(None, groups):
    _below(tree, group.split("/"))
  for name, array in arrays.items():
    *above, last = name.split("/")
    node = _below(tree, above)
    if last in node:
      raise errors.UserError(f"{name} is an array and a group.")
    node[last] = np.ascontiguousarray(array)
  return tree


def _below(node: dict, groups: Sequence[str]) -> dict:
  """Returns the group at a path and creates what is missing."""
  for group in groups:
    node = node.setdefault(group, {})
    if not isinstance(node, dict):
      raise errors.UserError(f"{'/'.join(groups)}: {group} is an array and a group.")
  return node


def _group(file: IO[bytes], node: Mapping, attributes: Mapping, path: str = "") -> int:
  """Writes the contents of a group, then the group; returns its address."""
  below = f"{path}/" if path else ""
  # Children are written first because a link holds the address of its child.
  links = {name: _group(file, child, attributes, below + name)
           if isinstance(child, dict) else _dataset(file, child)
           for name, child in node.items()}
  # Sections IV.A.2.c, IV.A.2.k and IV.A.2.g.
  messages = [(2, struct.pack("<BBQQ", 0, 0, _UNDEFINED, _UNDEFINED)),
              (10, struct.pack("<BB", 0, 0))]
  for name, address in links.items():
    text = name.encode("utf-8")
    messages.append((6, struct.pack("<BBBH", 1, 0x11, 1, len(text)) + text
                     + struct.pack("<Q", address)))
  messages += [(12, _attribute(name, value))
               for name, value in attributes.get(path, {}).items()]
  return _object(file, messages)


def _attribute(name: str, value: Texts) -> bytes:
  """Section IV.A.2.m, version 1: texts of one length, filled with zeros."""
  # Fixed lengths keep the bytes in the message itself; texts of variable length would
  # need a global heap.
  texts = [t.encode() for t in ([value] if isinstance(value, str) else value)]
  size = max(map(len, texts), default=0) or 1
  datatype = struct.pack("<BBBBI", 0x13, 1, 0, 0, size)
  shape = struct.pack("<BBB5x", 1, 0, 0) if isinstance(value, str) else struct.pack(
      "<BBB5xQ", 1, 1, 0, len(texts))
  parts = [name.encode() + b"\0", datatype, shape]
  return struct.pack("<BxHHH", 1, *map(len, parts)) + b"".join(
      part + bytes(-len(part) % 8) for part in parts) + b"".join(
          text.ljust(size, b"\0") for text in texts)


def _dataset(file: IO[bytes], array: np.ndarray) -> int:
  datatype = _datatype(array.dtype)
  where = _aligned(file)
  # The datatype message says little-endian on every host.
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


def _object(file: IO[bytes], messages: list[tuple[int, bytes]]) -> int:
  """Writes an object's header (section IV.A.1.a); returns its address."""
  body = b""
  for kind, data in messages:
    data += bytes(-len(data) % 8)
    body += struct.pack("<HHB3x", kind, len(data), 0) + data
  assert len(messages) <= _MESSAGES, "a group of too many"
  where = _aligned(file)
  # Version 1 of the header: version 2 would need a checksum for each object.
  file.write(struct.pack("<BBHII4x", 1, 0, len(messages), 1, len(body)) + body)
  return where


def _aligned(file: IO[bytes]) -> int:
  file.write(bytes(-file.tell() % 8))
  return file.tell()
