"""Reads PyTorch's `.bin`, `.pt` and `.pth` files without running any of their code.

PyTorch is not needed. The files are pickles, which `pickles` reads, and the bytes of
the tensors.

Since 1.6 a file is a zip archive of one pickle and a member for each storage, the
bytes that tensors share; before, pickles and storages lie one after the other.
Format: torch.save, https://docs.pytorch.org/docs/stable/notes/serialization.
"""

from collections.abc import Callable, Iterator
import functools
import io
import struct
from typing import Any, NamedTuple

from etils import epath
import ml_dtypes
import numpy as np

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import archive
from transfer_gen.formats import pickles
from transfer_gen.formats import raw

KIND = "PyTorch file"
# The old form begins with a pickle of protocol 2 of one integer of 10 bytes: _MAGIC.
_ZIP, _OLD = b"PK\x03\x04", b"\x80\x02\x8a\x0a"
_PICKLE, _MAGIC = "/data.pkl", 0x1950A86A20F9469CFC6C
_PICKLE_BYTES = 100 * 2**20
_DEPTH, _NAME_LENGTH = 32, 1000
_PLAIN = (type(None), bool, int, float, str, bytes)
_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": np.bool_,
}


_Place = Callable[[str], tuple[int, int]]  # Offset and bytes of a storage, by key.


class _Storage(NamedTuple):
  """Bytes that tensors share."""
  key: str
  dtype: np.dtype
  count: int


class _Tensor(NamedTuple):
  """What a pickle says about a tensor; nothing of it has been checked."""
  storage: Any
  offset: Any
  shape: Any
  strides: Any


def open_file(path: epath.Path) -> raw.Raw:
  """Opens a file and reads only its pickle.

  Values that are neither tensors nor containers become facts of the checkpoint.

  Raises:
    errors.UserError: If it is malformed, or holds more than tensors and plain data,
      which is named.
  """
  with raw.malformed(path, KIND):
    with untrusted.opened(path) as file:
      old = file.read(4) == _OLD
    value, place, length = _one_after_the_other(path) if old else _zipped(path)
    tensors, facts = _flatten(value, length)
    leaves = {n: _leaf(path, n, tensor, place) for n, tensor in tensors.items()}
    raw.check_extents(leaves, disjoint=False)  # Tied ones share their bytes.
  return raw.Raw(path, KIND, leaves, facts)


def looks_like(path: epath.Path) -> bool:
  """Returns whether a file begins as PyTorch files of either form do."""
  with untrusted.opened(path) as file:
    return file.read(4) in (_ZIP, _OLD)


def _zipped(path: epath.Path) -> tuple[Any, _Place, int]:
  """Returns the pickle's value, where storages lie, and the pickle's length."""
  found = archive.members(path)
  # The members lie in a folder that has the name under which the file was first saved,
  # so it is found by what it holds.
  pickled = [name for name in found if name.endswith(_PICKLE)]
  if len(pickled) != 1 or found[pickled[0]].file_size > _PICKLE_BYTES:
    raise errors.UserError(f"it holds {len(pickled)} pickles named data.pkl, or a huge"
                           " one.")
  root = pickled[0].removesuffix(_PICKLE)
  # Older versions do not write this member.
  order = f"{root}/byteorder"
  if order in found and archive.read(path, found[order]) != b"little":
    raise errors.UserError("its byte order is not little.")
  program = archive.read(path, found[pickled[0]])

  @functools.cache
  def place(key: str) -> tuple[int, int]:
    member = f"{root}/data/{key}"
    # `torch.save` stores bytes as they are, and leaves are read by address.
    if member not in found or not archive.stored(found[member]):
      raise errors.UserError(f"{member} is not there, or compressed.")
    return archive.offset(path, found[member]), found[member].file_size

  return pickles.load(io.BytesIO(program), _names(), _storage), place, len(program)


def _one_after_the_other(path: epath.Path) -> tuple[Any, _Place, int]:
  """Reads the form before PyTorch 1.6.

  Three pickles describe the form, one the value and one the keys of the storages; the
  storages follow, each behind its number of elements.
  """
  # The storages' own part of the file gives no dtype; only the pickle before it does.
  itemsizes, places = {}, {}

  def remembered(identity: Any) -> _Storage:
    storage = _storage(identity)
    itemsizes[storage.key] = storage.dtype.itemsize
    return storage

  with untrusted.opened(path) as file:
    magic, version, system = (pickles.load(file, {}, None) for _ in range(3))
    if (magic, version, system["little_endian"]) != (_MAGIC, 1001, True):
      raise errors.UserError("it is of a form, or a byte order, that is not read.")
    value = pickles.load(file, _names(), remembered)
    keys = pickles.load(file, {}, None)
    length = start = file.tell()
    for key in keys:
      file.seek(start)
      count, = struct.unpack("<q", file.read(8))
      places[key] = start + 8, count * itemsizes[key]
      start += 8 + places[key][1]
      if count < 0:
        raise errors.UserError(f"its storage {key} has {count} elements.")
  return value, places.__getitem__, length


def _names() -> dict[str, Any]:
  """Returns everything that a pickle of tensors may name."""
  storages = {f"torch.{name}": np.dtype(kind) for name, kind in _STORAGES.items()}
  return storages | {
      "collections.OrderedDict": lambda items=(): dict(items),
      # What is dropped here (requires_grad, hooks) concerns training in PyTorch, not
      # values.
      "torch._utils._rebuild_tensor_v2":
          lambda storage, offset, shape, strides, *_: _Tensor(
              storage, offset, shape, strides),
      "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
      "torch.Size": lambda sizes: tuple(sizes),
  }


def _storage(identity: Any) -> _Storage:
  """Returns the storage that a persistent id describes."""
  # The fourth entry is the device on which the storage was, which does not matter here.
  # A view of another storage is an old form that is refused.
  kind, dtype, key, _, count, *view = identity
  if (kind != "storage" or not isinstance(dtype, np.dtype) or any(view)
      or not isinstance(key, str) or type(count) is not int):
    raise errors.UserError("its pickle refers to what is no storage.")
  return _Storage(key, dtype, count)


def _flatten(value: Any, limit: int) -> tuple[dict[str, _Tensor], dict[str, Any]]:
  """Returns tensors and other values by name; nested keys are joined by "/".

  A container that holds itself, or the same ones over and over, would never end: no
  honest pickle has more values than bytes.
  """
  found = {}
  for count, (name, part) in enumerate(_walk("", value)):
    if count > limit:
      raise errors.UserError("its containers hold themselves.")
    if name in found:
      raise errors.UserError(f"two of its values are named {name[:100]}.")
    found[name] = part
    if not isinstance(part, (_Tensor, dict, list, tuple, *_PLAIN)):
      raise errors.UserError(f"{name or 'it'} is a {type(part).__name__}.")
  return ({n: v for n, v in found.items() if isinstance(v, _Tensor)},
          {n: v for n, v in found.items() if isinstance(v, _PLAIN)})


def _walk(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
  yield name, value
  inner = ()
  if isinstance(value, dict):
    inner = value.items()
  elif isinstance(value, (list, tuple)) and not isinstance(value, (_Tensor, _Storage)):
    inner = enumerate(value)
  for key, below in inner:
    key = str(key)
    # Before the recursion, so that deep nesting ends in this message and not in
    # Python's.
    if depth > _DEPTH or len(key) > _NAME_LENGTH:
      raise errors.UserError(f"{name[:100]} holds what no checkpoint does.")
    yield from _walk(f"{name}/{key}" if name else key, below, depth + 1)


def _leaf(path: epath.Path, name: str, tensor: _Tensor, place: _Place) -> raw.Extent:
  storage, offset, shape, strides = tensor
  shape, strides = raw.sizes(shape), raw.sizes(strides)
  if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
    raise errors.UserError(f"{name} has no storage.")
  start, nbytes = place(storage.key)
  itemsize = storage.dtype.itemsize
  leaf = raw.Extent(path=path, offset=start + offset * itemsize, shape=shape,
                    dtype=storage.dtype, strides=strides)
  # An expanded tensor (stride 0) claims more elements than it has bytes: a few bytes
  # could then take any amount of memory, so such a shape is refused.
  elements = leaf.nbytes // itemsize
  if (len(strides) != len(shape) or storage.count * itemsize != nbytes
      or offset + elements > storage.count or np.prod(shape, dtype=object) > elements):
    raise errors.UserError(
        f"{name} {storage.dtype}{shape} does not fit its storage of {nbytes} bytes.")
  return leaf
