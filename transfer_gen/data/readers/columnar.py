"""Tables by columns: Parquet, and Arrow files and streams, of which Feather is one."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen.data.readers import blobs
from transfer_gen.formats import raw

Example = blobs.Example
_AT_ONCE = 1024  # Rows; Python's objects take several times the memory of columns.
# A view on a text: its length, and either itself or where it lies.
_VIEW = np.dtype([("length", "<i4"), ("text", "V12")])
_FILE = b"ARROW1"  # What an Arrow file begins with; a stream begins otherwise.


def read_parquet(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the rows of a Parquet file.

  Raises:
    errors.UserError: If it is damaged.
  """
  del options
  return _rows(blob, "Parquet file", _parquet)


def read_arrow(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the rows of an Arrow file or stream, or of a Feather file.

  Raises:
    errors.UserError: If it is damaged.
  """
  del options
  return _rows(blob, "Arrow file", _arrow)


def _rows(
    blob: blobs.Blob, kind: str, parse: Callable[[bytes], Any]) -> Iterator[Example]:
  data = blob.read()
  batches, number, held = parse(data), 0, 0
  while True:
    with raw.malformed(str(blob), kind):
      batch = next(batches, None)
      if batch is None:
        return
      # Offsets into a column's bytes are taken from the file as they are. Without this
      # check a damaged one would be followed to wherever it leads.
      batch.validate(full=True)
      held += _unfolded(batch)
    blobs.check_ratio(blob, len(data), held)
    blobs.check_parts(blob, len(data), number + batch.num_rows)
    blobs.check_memory(blob, held, number + batch.num_rows)
    for start in range(0, batch.num_rows, _AT_ONCE):
      with raw.malformed(str(blob), kind):
        rows = batch.slice(start, _AT_ONCE).to_pylist()
      for row in rows:
        number += 1
        yield f"{blob}:row {number}", row


def _parquet(data: bytes) -> Iterator[Any]:
  import pyarrow as pa  # Here, since both take a second to import.
  from pyarrow import parquet
  names = parquet.ParquetFile(pa.BufferReader(data)).schema_arrow
  # A text that many rows share is stored once, and stays so until rows are made of it:
  # what they will take can be counted before.
  shared = [field.name for field in names
            if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
  file = parquet.ParquetFile(pa.BufferReader(data), read_dictionary=shared)
  groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
  claimed = sum(group.total_byte_size for group in groups)
  blobs.check_ratio("it", len(data), claimed)
  blobs.check_parts("it", len(data), file.metadata.num_rows)
  yield from file.iter_batches(_AT_ONCE)


def _arrow(data: bytes) -> Iterator[Any]:
  import pyarrow as pa  # Here, since it takes long to import.
  if not data.startswith(_FILE):
    yield from pa.ipc.open_stream(pa.BufferReader(data))
    return
  opened = pa.ipc.open_file(pa.BufferReader(data))
  for i in range(opened.num_record_batches):
    yield opened.get_batch(i)


def _unfolded(batch: Any) -> int:
  """Returns the bytes of a batch where each row holds its own values."""
  return sum(int(_sizes(column).sum()) for column in batch.columns)


# Arrow has many ways to store a value once for many rows. What is made of a row holds
# its values again, so they are counted for each row, at whatever depth they lie.
def _sizes(array: Any) -> np.ndarray:
  """Returns the bytes of each entry of an array, i64[N]; its type is in Arrow's words.

  Raises:
    errors.UserError: If its type is not one that texts come in.
  """
  import pyarrow as pa  # Here, since it takes long to import.
  kind, is_a = array.type, pa.types
  if isinstance(array, pa.ExtensionArray):
    return _sizes(array.storage)
  if is_a.is_dictionary(kind):
    # At index -1, the size of what is null.
    sizes = np.append(_sizes(array.dictionary), 0)
    return sizes[array.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
  if is_a.is_run_end_encoded(kind):
    ends = array.run_ends.to_numpy(zero_copy_only=False).astype(np.int64) - array.offset
    ends = ends.clip(0, len(array))
    return np.repeat(_sizes(array.values), np.diff(ends, prepend=0))
  if is_a.is_struct(kind):
    return sum(map(_sizes, array.flatten()), np.zeros(len(array), np.int64))
  if is_a.is_map(kind):
    return _between(_sizes(array.keys) + _sizes(array.items), array.offsets)
  if is_a.is_list(kind) or is_a.is_large_list(kind):
    return _between(_sizes(array.values), array.offsets)
  if is_a.is_fixed_size_list(kind):
    sizes = _sizes(array.values).reshape(-1, max(kind.list_size, 1))
    return sizes[array.offset:array.offset + len(array)].sum(-1)
  if is_a.is_null(kind):
    return np.zeros(len(array), np.int64)
  if is_a.is_string(kind) or is_a.is_binary(kind):
    return np.diff(_numbers(array, np.int32, 1))
  if is_a.is_large_string(kind) or is_a.is_large_binary(kind):
    return np.diff(_numbers(array, np.int64, 1))
  if is_a.is_string_view(kind) or is_a.is_binary_view(kind):
    return _numbers(array, _VIEW, 0)["length"].astype(np.int64)
  if (is_a.is_primitive(kind) or is_a.is_fixed_size_binary(kind)
      or is_a.is_decimal(kind)):
    return np.full(len(array), max(kind.bit_width // 8, 1), np.int64)
  raise errors.UserError(f"it has a column of type {str(kind)[:60]}, which no text has."
                         " Save it without that column.")


def _between(sizes: np.ndarray, offsets: Any) -> np.ndarray:
  """Returns the sizes of lists, i64[N], from those of all values and i[N + 1]."""
  before = np.append(0, np.cumsum(sizes))
  return np.diff(before[offsets.to_numpy(zero_copy_only=False)])


def _numbers(array: Any, dtype: Any, more: int) -> np.ndarray:
  """Returns the entries of an array's second buffer, and `more` behind them."""
  buffer = array.buffers()[1]
  if not len(array) or buffer is None:
    return np.zeros(len(array) + more, dtype)
  return np.frombuffer(buffer, dtype)[array.offset:array.offset + len(array) + more]
