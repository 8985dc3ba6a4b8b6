"""Tables by columns: Parquet, and Arrow files and streams, of which Feather is one."""

from collections.abc import Callable, Iterator
from typing import Any

from transfer_gen.data.readers import blobs
from transfer_gen.formats import raw

Example = blobs.Example
_AT_ONCE = 1024  # Rows; Python's objects take several times the memory of columns.
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
  """Returns the bytes of a batch where each row holds its own text."""
  import pyarrow as pa  # Here, since it takes long to import.
  from pyarrow import compute as compute_lib
  compute: Any = compute_lib  # Its functions are made when it is imported.
  total = batch.nbytes
  for column in batch.columns:
    if pa.types.is_dictionary(column.type) and len(column.dictionary) and (
        pa.types.is_string(column.type.value_type)
        or pa.types.is_large_string(column.type.value_type)
        or pa.types.is_binary(column.type.value_type)):
      lengths = compute.binary_length(column.dictionary)
      total += compute.sum(lengths.take(column.indices)).as_py() or 0
  return total
