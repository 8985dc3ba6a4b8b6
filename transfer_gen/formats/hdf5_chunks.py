"""Arrays that HDF5 stores in chunks, which are usually compressed."""

import zlib

import numpy as np

from transfer_gen import errors
from transfer_gen.formats import hdf5

_INFLATE = 1100  # Deflate makes no more of a byte.


def read(file: hdf5.File, dataset: hdf5.Dataset) -> np.ndarray:
  """Puts an array together.

  Raises:
    errors.UserError: If chunks are missing or do not fit; before memory is taken.
  """
  chunks = {at: where for at, *where in file.chunks(dataset)}
  grid = [-(-n // c) for n, c in zip(dataset.shape, dataset.chunk)]
  wanted = int(np.prod(grid, dtype=object))
  nbytes = int(np.prod(dataset.chunk, dtype=object)) * dataset.dtype.itemsize
  inside = all(n % c == 0 and n < size for at in chunks for n, c, size in zip(
      at, dataset.chunk, dataset.shape))
  if len(chunks) != wanted or not inside:
    raise errors.UserError(f"{len(chunks)} of {wanted} chunks of an array are there.")
  if any(nbytes > _INFLATE * (size + 1) for _, size, _ in chunks.values()):
    raise errors.UserError(f"a chunk of an array would have {nbytes} bytes.")
  value = np.empty(dataset.shape, dataset.dtype)
  for at, (address, size, mask) in chunks.items():
    data = _undone(file.take(address, size), dataset, mask, nbytes)
    chunk = np.frombuffer(data, dataset.dtype).reshape(dataset.chunk)
    part = value[tuple(slice(n, n + c) for n, c in zip(at, dataset.chunk))]
    part[...] = chunk[tuple(slice(n) for n in part.shape)]
  return value


def _undone(
    data: bytes, dataset: hdf5.Dataset, mask: int, nbytes: int) -> bytes:
  """A chunk before its filters, which act in their order on writing."""
  for number, name in reversed(list(enumerate(dataset.filters))):
    if mask >> number & 1:
      continue
    if name == "deflate":
      inflate = zlib.decompressobj()
      data = inflate.decompress(data, nbytes + 8)  # A checksum may follow.
    elif name == "checksum":
      data = data[:-4]
    else:
      data = _unshuffled(data, dataset.dtype.itemsize)
  if len(data) != nbytes:
    raise errors.UserError(f"a chunk of an array has {len(data)} of {nbytes} bytes.")
  return data


def _unshuffled(data: bytes, itemsize: int) -> bytes:
  """Bytes of elements together again; what is left over stays at the end."""
  whole = len(data) // itemsize * itemsize
  planes = np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1)
  return planes.T.tobytes() + data[whole:]
