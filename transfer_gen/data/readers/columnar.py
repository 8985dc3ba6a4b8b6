"""Tables by columns: Parquet, and Arrow files and streams, of which Feather is one."""

from collections.abc import Callable, Iterator
from typing import Any

from transfer_gen import errors
from transfer_gen.data.readers import blobs
from transfer_gen.formats import raw

Example = blobs.Example
_AT_ONCE = 1024  # Rows; Python's objects take several times the memory of columns.
# Bytes, as the file claims them: more than a run can hold as Python strings.
_LARGEST = 64 * 2**30
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
  with raw.malformed(str(blob), kind):
    table = parse(data)
    # Offsets into a column's bytes are taken from the file as they are. Without this
    # check a damaged one would be followed to wherever it leads.
    table.validate(full=True)
  number = 0
  for batch in table.to_batches(_AT_ONCE):
    with raw.malformed(str(blob), kind):
      rows = batch.to_pylist()
    for row in rows:
      number += 1
      yield f"{blob}:row {number}", row


def _parquet(data: bytes) -> Any:
  import pyarrow as pa  # Here, since both take a second to import.
  from pyarrow import parquet
  file = parquet.ParquetFile(pa.BufferReader(data))
  groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
  claimed = sum(group.total_byte_size for group in groups)
  if not 0 <= claimed <= _LARGEST:
    raise errors.UserError(f"it would take {claimed} bytes.")
  return file.read()


def _arrow(data: bytes) -> Any:
  import pyarrow as pa  # Here, since it takes long to import.
  opened = pa.ipc.open_file if data.startswith(_FILE) else pa.ipc.open_stream
  return opened(pa.BufferReader(data)).read_all()
