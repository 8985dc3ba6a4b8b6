"""Reads the part of HDF5 that Keras writes, from bytes alone.

HDF5's own library trusts a file: lengths and addresses of a broken one make it take
memory without bound, loop or crash. Here each is checked against the file. Objects
are named by the address of their header. What newer writers may add on request (dense
groups, other chunk indices) is refused by name.

Format: HDF5 File Format Specification 3.0, https://docs.hdfgroup.org; its sections are
given below. Addresses and lengths are of 8 bytes, little-endian.
"""

from collections.abc import Iterator
import dataclasses
import struct
from typing import IO

import numpy as np

from transfer_gen import errors
from transfer_gen.formats import raw

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 2**64 - 1
_ENTRIES = 4096  # In a node of a tree; by default HDF5 writes at most 64.
_DATASPACE, _LINK_INFO, _DATATYPE, _EXTERNAL, _LINK = 1, 2, 3, 7, 6
_LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOLS = 8, 11, 12, 16, 17
_FIXED, _FLOAT, _STRING, _VARIABLE = 0, 1, 3, 9  # Classes of datatypes.
# Of each size: position and bits of the exponent, then of the mantissa, and the bias.
_FLOATS = {2: (10, 5, 0, 10, 15), 4: (23, 8, 0, 23, 127), 8: (52, 11, 0, 52, 1023)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """An array that has not been read yet.

  Attributes:
    shape: Its shape.
    dtype: Its dtype, in the byte order of the file.
    offset: Where its bytes begin, in bytes from the start of the file; they lie in C
      order. If None, the array is stored in chunks.
    tree: Address of the B-tree of its chunks.
    chunk: Shape of a chunk.
    filters: Filters that were applied to each chunk, in order: "shuffle", "deflate" or
      "checksum".
  """
  shape: tuple[int, ...]
  dtype: np.dtype
  offset: int | None = None
  tree: int = _UNDEFINED
  chunk: tuple[int, ...] = ()
  filters: tuple[str, ...] = ()


class File:
  """An open HDF5 file, whose objects are read by their address.

  Every method raises `errors.UserError`, or struct.error and the like, where the file
  is broken: use it under `raw.malformed`.

  Attributes:
    root: Address of the root group.
  """

  def __init__(self, file: IO[bytes], start: int = 0):
    """Reads the superblock at byte `start` of an open file."""
    self._file, self._start = file, start
    self._size = file.seek(0, 2) - start
    # Links by group: names are looked up one by one, and a group of many layers would
    # otherwise be parsed once for each of them.
    self._known: dict[int, dict[str, int]] = {}
    self.root = self._superblock()

  def take(self, address: int, size: int) -> bytes:
    """Reads `size` bytes at an address."""
    # Python integers do not wrap around, so one comparison also refuses negative sizes
    # and sums beyond 64 bits.
    if not 0 <= address <= address + size <= self._size:
      raise errors.UserError(f"an address leads out of it, to byte {address + size}.")
    self._file.seek(self._start + address)
    return self._file.read(size)

  def links(self, address: int) -> dict[str, int]:
    """Returns the addresses in a group by name; {} if it is empty or no group."""
    if address in self._known:
      return self._known[address]
    found = {}
    for kind, body in self._messages(address):
      pairs = ()
      # h5py writes groups as a B-tree and a heap by default, and as link messages in
      # the header for a newer libver. A dense group is a third form.
      if kind == _SYMBOLS:
        pairs = self._symbols(*struct.unpack_from("<QQ", body))
      elif kind == _LINK:
        pairs = (_link(body),)
      elif kind == _LINK_INFO:
        heap, = struct.unpack_from("<Q", body, 2 + 8 * (body[1] & 1))
        if heap != _UNDEFINED:
          raise errors.UserError(
              "a group of it is dense, which is not read. Save it with h5py's default"
              " libver, without track_order.")
      for name, child in pairs:
        # Which of the two a reader takes is not defined, so neither is.
        if name in found:
          raise errors.UserError(f"two objects are named {name[:100]}.")
        found[name] = child
    self._known[address] = found
    return found

  def texts(self, address: int, attribute: str) -> list[str] | None:
    """Returns an attribute of texts, or None if there is none of that name."""
    for kind, body in self._messages(address):
      if kind == _ATTRIBUTE:
        name, datatype, space, data = _attribute(body)
        if name == attribute.encode():
          return self._texts(attribute, datatype, _shape(space), data)
    return None

  def dataset(self, address: int) -> Dataset | None:
    """Returns the array at an address, or None if the object is no array."""
    # Reversed, so that the first message of each kind is the one that counts.
    messages = dict(reversed(self._messages(address)))
    if _LAYOUT not in messages:
      return None
    if _EXTERNAL in messages:
      raise errors.UserError("an array of it lies in another file.")
    shape, dtype = _shape(messages[_DATASPACE]), _dtype(messages[_DATATYPE])
    version, kind = messages[_LAYOUT][:2]
    # Version 4 differs from version 3 in chunked arrays alone, which it indexes in
    # other ways than by the B-tree. Kind 3 is a virtual array, made of other files.
    if version not in (3, 4) or kind > 2 or (version, kind) == (4, 2):
      raise errors.UserError("an array of it is laid out in a form that is not read.")
    if kind == 0:  # In the header itself, right behind these four bytes.
      return Dataset(shape=shape, dtype=dtype, offset=self._start + self._compact(
          address, messages[_LAYOUT]))
    if kind == 1:
      where, = struct.unpack_from("<Q", messages[_LAYOUT], 2)
      if where == _UNDEFINED and 0 in shape:  # There is nothing to lie anywhere.
        where = 0
      if where == _UNDEFINED:
        raise errors.UserError(f"an array {shape} of it was never written.")
      return Dataset(shape=shape, dtype=dtype, offset=self._start + where)
    # This rank counts one dimension more than the array has: the last size is that of
    # an element, which gives a check for free.
    rank, tree = struct.unpack_from("<BQ", messages[_LAYOUT], 2)
    *chunk, size = struct.unpack_from(f"<{rank}I", messages[_LAYOUT], 11)
    if len(chunk) != len(shape) or 0 in chunk or size != dtype.itemsize:
      raise errors.UserError("chunks of it do not fit their array.")
    return Dataset(shape=shape, dtype=dtype, tree=tree, chunk=tuple(chunk),
                   filters=_filters(messages.get(_FILTERS, b"\2\0")))

  def chunks(self, dataset: Dataset) -> Iterator[tuple[tuple[int, ...], int, int, int]]:
    """Yields (first indices, address, bytes, mask of skipped filters) of each chunk.

    Section III.A.1 of the specification.
    """
    # A key ends with an index into the bytes of an element, which is always 0.
    key = struct.Struct(f"<II{len(dataset.shape) + 1}Q")
    if dataset.tree == _UNDEFINED:  # None was written.
      return
    for (size, mask, *at), address in self._tree(dataset.tree, 1, key):
      yield tuple(at[:-1]), address, size, mask

  def _superblock(self) -> int:
    """Checks the superblock (section II), and returns the address of the root."""
    head = self.take(0, 64)
    if head[:8] != _SIGNATURE:
      raise errors.UserError("it does not begin as HDF5 does.")
    # Versions 0 and 1 give the sizes of addresses and lengths in bytes 13 and 14, later
    # ones in bytes 9 and 10. HDF5 itself uses 8 for both.
    version = head[8]
    offsets = head[13:15] if version < 2 else head[9:11]
    if version > 3 or offsets != b"\x08\x08":
      raise errors.UserError("its superblock is of a form that is not read.")
    # Version 1 has four bytes more than version 0 before these; in both, the root is in
    # a symbol table entry, behind the offset of its name. Later versions give its
    # header directly.
    base, root = ((24, 64) if version == 0 else (28, 68) if version == 1 else (12, 36))
    if self._number(base):
      raise errors.UserError("it begins with a block of another format.")
    return self._number(root)

  def _number(self, address: int) -> int:
    return struct.unpack("<Q", self.take(address, 8))[0]

  def _messages(self, address: int) -> list[tuple[int, bytes]]:
    """Returns (kind, body) of each message of a header (section IV.A.1)."""
    return [(kind, body) for kind, body, _ in self._placed_messages(address)]

  def _placed_messages(self, address: int) -> Iterator[tuple[int, bytes, int]]:
    """Yields (kind, body, address) of each message of an object's header."""
    start = self.take(address, 16)
    if start[:4] == b"OHDR":
      # Flag 0x20 adds four times of 4 bytes, and 0x10 two limits of 2 bytes; the low
      # two bits give the width of the size that follows.
      flags = start[5]
      at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
      width = 1 << (flags & 3)
      size = int.from_bytes(self.take(at, width), "little")
      # Continuation blocks of this version begin with a signature (OCHK) and end with a
      # checksum; those of version 1 have neither.
      head = struct.Struct("<BHB2x" if flags & 4 else "<BHB")
      blocks, signature, checksum = [(at + width, size)], 4, 4
    else:
      head, signature, checksum = struct.Struct("<HHB3x"), 0, 0
      blocks = [(address + 16, struct.unpack_from("<I", start, 8)[0])]
    left = self._size  # Blocks that name each other again would have no end.
    for where, size in blocks:
      block, at = self.take(where, size), 0
      left -= size + 1
      if left < 0:
        raise errors.UserError("a header of it has no end.")
      while at + head.size <= len(block):
        kind, length, flags = head.unpack_from(block, at)
        at += head.size
        body = block[at:at + length]
        if kind == _CONTINUATION:
          more, size = struct.unpack_from("<QQ", body)
          blocks.append((more + signature, size - signature - checksum))
        # The body of a shared message is an address, which must not be parsed as the
        # message itself.
        elif flags & 2 and kind in (_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE):
          raise errors.UserError("objects of it share their description.")
        else:
          yield kind, body, where + at
        at += length

  def _compact(self, address: int, layout: bytes) -> int:
    """Returns the address of an array's bytes that lie in its own header."""
    return next(at for kind, body, at in self._placed_messages(address)
                if kind == _LAYOUT and body == layout) + 4

  def _tree(self, address: int, kind: int, key: struct.Struct):
    """Yields (key, child) of the leaves of a B-tree (section III.A.1)."""
    # A node takes 24 bytes, so a walk that needs more nodes and entries than fit into
    # the file goes in circles.
    ahead, left = [address], self._size // 24
    while ahead:
      address = ahead.pop()
      head = self.take(address, 24)
      level, count = head[5], int.from_bytes(head[6:8], "little")
      left -= count + 1
      if head[:5] != b"TREE" + bytes([kind]) or left < 0 or count > _ENTRIES:
        raise errors.UserError("a tree of it is broken.")
      node = self.take(address + 24, count * (key.size + 8))
      places = range(0, len(node), key.size + 8)
      child = lambda at, node=node: int.from_bytes(
          node[at + key.size:at + key.size + 8], "little")
      if level:
        # The stack is popped from its end; reversed, children come in the order of
        # their keys.
        ahead += [child(at) for at in reversed(places)]
      else:
        yield from ((key.unpack_from(node, at), child(at)) for at in places)

  def _symbols(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """Yields the links of a group in the old form (sections III.B to III.D)."""
    head = self.take(heap, 32)
    size, _, where = struct.unpack_from("<QQQ", head, 8)
    if head[:4] != b"HEAP":
      raise errors.UserError("a heap of it is broken.")
    names = self.take(where, size)
    for _, address in self._tree(tree, 0, struct.Struct("<Q")):
      head = self.take(address, 8)
      if head[:4] != b"SNOD":
        raise errors.UserError("a group of it is broken.")
      table = self.take(address + 8, 40 * int.from_bytes(head[6:8], "little"))
      # An entry is an offset into the heap, an address, a cache type and scratch space.
      # Cache type 2 marks a soft link, which has no address.
      for name, child, cache, _ in struct.iter_unpack("<QQI20s", table):
        end = names.index(b"\0", name)
        if cache == 2:
          raise errors.UserError("it holds links to elsewhere.")
        yield names[name:end].decode(), child

  def _texts(self, attribute, datatype, shape, data) -> list[str]:
    count, size = int(np.prod(shape, dtype=object)), _size(datatype)
    kind = datatype[0] & 15
    if kind not in (_STRING, _VARIABLE) and count:
      raise errors.UserError(f"its attribute {attribute} is no text.")
    if count * size > len(data):
      raise errors.UserError(f"its attribute {attribute} is cut off.")
    values = [data[i * size:(i + 1) * size] for i in range(count)]
    if kind == _VARIABLE:
      # h5py stores a Python str with variable length: a length, and an address and an
      # index into a global heap.
      values = [self._heaped(*struct.unpack("<IQI", value)) for value in values]
    return [value.rstrip(b"\0").decode() for value in values]

  def _heaped(self, length: int, address: int, index: int) -> bytes:
    """Reads a text of variable length from a global heap (section III.E)."""
    head = self.take(address, 16)
    if head[:4] != b"GCOL":
      raise errors.UserError("a heap of it is broken.")
    end = address + struct.unpack_from("<Q", head, 8)[0]
    address += 16
    while address + 16 <= end:
      number, size = struct.unpack_from("<H6xQ", self.take(address, 16))
      if number == index:
        return self.take(address + 16, min(size, length))
      # Each step goes ahead by 16 bytes or more, so a broken heap ends as well.
      address += 16 + -(-size // 8) * 8
    raise errors.UserError("a text of it is missing.")


def _link(body: bytes) -> tuple[str, int]:
  """Parses a link of a group in the new form (section IV.A.2.g)."""
  flags, at = body[1], 2
  if flags & 8 and body[2]:
    raise errors.UserError("it holds links to elsewhere.")
  # Optional fields in this order: type of link, order of creation, character set.
  at += bool(flags & 8) + (8 if flags & 4 else 0) + bool(flags & 16)
  width = 1 << (flags & 3)
  end = at + width + int.from_bytes(body[at:at + width], "little")
  return body[at + width:end].decode(), struct.unpack_from("<Q", body, end)[0]


def _attribute(body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
  """Splits an attribute: name, datatype, dataspace, data (section IV.A.2.m)."""
  version, flags = body[0], body[1]
  if version not in (1, 2, 3) or version > 1 and flags & 3:
    raise errors.UserError("an attribute of it is of a form that is not read.")
  # Version 3 adds a byte for the character set. Version 1 alone pads each part to a
  # multiple of 8 bytes.
  at, parts = 9 if version == 3 else 8, []
  for size in struct.unpack_from("<HHH", body, 2):
    parts.append(body[at:at + size])
    at += -(-size // 8) * 8 if version == 1 else size
  return parts[0].rstrip(b"\0"), parts[1], parts[2], body[at:]


def _shape(body: bytes) -> tuple[int, ...]:
  """Parses a dataspace (section IV.A.2.b)."""
  # In version 2, type 2 is a null dataspace, which has no elements and no rank.
  version, rank = body[:2]
  if version not in (1, 2) or version == 2 and body[3] == 2:
    raise errors.UserError("an array of it is empty in a form that is not read.")
  return raw.sizes(struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4))


def _size(datatype: bytes) -> int:
  return struct.unpack_from("<I", datatype, 4)[0]


def _dtype(body: bytes) -> np.dtype:
  """Parses a datatype of numbers (section IV.A.2.d)."""
  kind, bits, size = body[0] & 15, body[1], _size(body)
  order = ">" if bits & 1 else "<"
  if kind == _FIXED and size in (1, 2, 4, 8):
    offset, precision = struct.unpack_from("<HH", body, 8)
    if (offset, precision) == (0, 8 * size):
      return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
  # Bit 0x40 marks the byte order of a VAX. All fields are compared, since another
  # format of the same size (bfloat16 has 2 bytes too) would give wrong numbers.
  if kind == _FLOAT and size in _FLOATS and not bits & 0x40:
    offset, precision, *fields = struct.unpack_from("<HHBBBBI", body, 8)
    if (offset, precision, *fields) == (0, 8 * size, *_FLOATS[size]):
      return np.dtype(f"{order}f{size}")
  raise errors.UserError("an array of it holds no plain numbers, which is not read.")


def _filters(body: bytes) -> tuple[str, ...]:
  """Parses a filter pipeline (section IV.A.2.l)."""
  version, count = body[:2]
  at, found = 8 if version == 1 else 2, []
  for _ in range(count):
    number, = struct.unpack_from("<H", body, at)
    # Version 2 leaves the name out of filters that HDF5 itself registers (below 256),
    # and does not pad an odd number of values.
    named = version == 1 or number >= 256
    length = struct.unpack_from("<H", body, at + 2)[0] if named else 0
    values, = struct.unpack_from("<H", body, at + (6 if named else 4))
    at += (8 if named else 6) + length + 4 * values
    if version == 1:
      at += 4 * (values % 2)
    if number not in (1, 2, 3):
      raise errors.UserError(f"arrays of it went through filter {number}, which is not"
                             " read; gzip and shuffle are.")
    found.append({1: "deflate", 2: "shuffle", 3: "checksum"}[number])
  return tuple(found)
