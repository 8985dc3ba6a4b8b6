"""Arrays that HDF5 stores in chunks, which are usually compressed."""

import zlib

import numpy as np

from transfer_gen import errors
from transfer_gen.formats import hdf5

# Deflate expands a byte to at most 1032; the rest is room for very short chunks.
_INFLATE = 1100


def read(file: hdf5.File, dataset: hdf5.Dataset) -> np.ndarray:
  """Reads an array from its chunks.

  Raises:
    errors.UserError: If chunks are missing or do not fit. It is raised before memory is
      allocated.
  """
  chunks = {at: where for at, *where in file.chunks(dataset)}
  grid = [-(-n // c) for n, c in zip(dataset.shape, dataset.chunk)]
  # Sizes come from the file. As Python integers (dtype=object) their products cannot
  # overflow into something that looks small.
  wanted = int(np.prod(grid, dtype=object))
  nbytes = int(np.prod(dataset.chunk, dtype=object)) * dataset.dtype.itemsize
  inside = all(n % c == 0 and n < size for at in chunks for n, c, size in zip(
      at, dataset.chunk, dataset.shape))
  # HDF5 would put a fill value where a chunk is missing. In a checkpoint, weights that
  # were never written are damage.
  if len(chunks) != wanted or not inside:
    raise errors.UserError(f"{len(chunks)} of {wanted} chunks of an array are there.")
  if any(nbytes > _INFLATE * (size + 1) for _, size, _ in chunks.values()):
    raise errors.UserError(f"a chunk of an array would have {nbytes} bytes.")
  value = np.empty(dataset.shape, dataset.dtype)
  for at, (address, size, mask) in chunks.items():
    data = _undone(file.take(address, size), dataset, mask, nbytes)
    chunk = np.frombuffer(data, dataset.dtype).reshape(dataset.chunk)
    # Chunks at the far edges are stored in full size, so what lies beyond the array is
    # cut off.
    part = value[tuple(slice(n, n + c) for n, c in zip(at, dataset.chunk))]
    part[...] = chunk[tuple(slice(n) for n in part.shape)]
  return value


def _undone(
    data: bytes, dataset: hdf5.Dataset, mask: int, nbytes: int) -> bytes:
  """Undoes the filters of a chunk, the last one first."""
  for number, name in reversed(list(enumerate(dataset.filters))):
    # A set bit says that the writer skipped this filter for this chunk, for example
    # where deflate gained nothing.
    if mask >> number & 1:
      continue
    if name == "deflate":
      # The bound keeps a small chunk from inflating into all memory.
      inflate = zlib.decompressobj()
      data = inflate.decompress(data, nbytes + 8)  # A checksum may follow.
    elif name == "checksum":
      data = data[:-4]  # A Fletcher-32 sum, which is not verified.
    else:
      data = _unshuffled(data, dataset.dtype.itemsize)
  if len(data) != nbytes:
    raise errors.UserError(f"a chunk of an array has {len(data)} of {nbytes} bytes.")
  return data


def _unshuffled(data: bytes, itemsize: int) -> bytes:
  """Puts the bytes of each element together; a remainder stays at the end."""
  whole = len(data) // itemsize * itemsize
  # Shuffling stores the first bytes of all elements, then all second bytes and so on:
  # exponents lie together and compress better.
  planes = np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1)
  return planes.T.tobytes() + data[whole:]
