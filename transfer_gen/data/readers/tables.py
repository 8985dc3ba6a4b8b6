"""Tables as text: `.csv` and `.tsv`, with a line that names the columns or without."""

import collections
from collections.abc import Iterator, Sequence
import csv
import io
from typing import Any

from transfer_gen import errors
from transfer_gen.data.readers import blobs

Example = blobs.Example


def read_csv(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the rows of comma-separated cells; `"` quotes cells.

  Raises:
    errors.UserError: If a row does not fit the columns.
  """
  # Without `strict` the `csv` module accepts malformed quotes, and one that is never
  # closed would swallow the rest of the file as a single cell.
  return _table(blob, options.columns, delimiter=",", strict=True)


def read_tsv(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the rows of cells between tabs; a quote belongs to the text.

  Raises:
    errors.UserError: If a row does not fit the columns.
  """
  # TSV files are usually written without quoting.
  return _table(blob, options.columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(
    blob: blobs.Blob, columns: Sequence[str], **form: Any) -> Iterator[Example]:
  # Cells are documents, which may be longer than the 128 KiB that `csv` allows.
  # The limit is a C long, which has 32 bits on Windows.
  csv.field_size_limit(2**31 - 1)
  # With newline="" line ends inside quoted cells stay as they are in the file.
  rows = csv.reader(io.StringIO(blob.text(), newline=""), **form)
  start = 1
  try:
    header = columns or next(rows, [])
    _check_header(f"{blob}:1", header)
    start = rows.line_num + 1
    for row in rows:
      # `csv` returns blank lines as empty rows. A row spans several lines if one of its
      # cells does, so the reader counts the lines.
      if row:
        yield f"{blob}:{start}", _columns(f"{blob}:{start}", header, row, columns)
      start = rows.line_num + 1
  except csv.Error as error:
    raise errors.UserError(
        f"{blob}:{start}: not a row of this form ({error}). A cell that holds a"
        ' quote or a comma is written "..." with its quotes doubled.') from error


def _check_header(where: str, header: Sequence[str]) -> None:
  counts = collections.Counter(header)
  if twice := sorted(name for name, count in counts.items() if count > 1):
    raise errors.UserError(
        f"{where}: {len(header)} columns, of which several are named"
        f" {', '.join(map(repr, twice))}. Give each its own name; if the first line is"
        " already a row, name the columns by data.columns.")


def _columns(
    where: str, header: Sequence[str], row: Sequence[str], given: Sequence[str]
) -> dict[str, str]:
  if len(row) != len(header):
    advice = ("Let data.columns name every column" if given else
              "Correct the row, or the file's ending if it has another delimiter")
    raise errors.UserError(
        f"{where}: {len(row)} cells under {len(header)} columns"
        f" ({', '.join(header)}). {advice}.")
  return dict(zip(header, row))
