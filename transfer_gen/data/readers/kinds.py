"""Which reader reads a file, by the ending of its name.

A new format is one reader, which takes a blob and options and yields examples, and one
line in `READERS`.
"""

from collections.abc import Callable, Iterator

from transfer_gen.data.readers import columnar
from transfer_gen.data.readers import drawings
from transfer_gen.data.readers import json_documents
from transfer_gen.data.readers import plain
from transfer_gen.data.readers import tables
from transfer_gen.data.readers import tmx

Reader = Callable[..., Iterator]
PLAIN: Reader = plain.read

READERS: dict[str, Reader] = {
    ".txt": PLAIN,
    ".jsonl": json_documents.read_lines,
    ".ndjson": drawings.read_lines,
    ".npz": drawings.read_npz,
    ".json": json_documents.read,
    ".csv": tables.read_csv,
    ".tsv": tables.read_tsv,
    ".tmx": tmx.read,
    ".parquet": columnar.read_parquet,
    ".arrow": columnar.read_arrow,
    ".feather": columnar.read_arrow,
}
# Functions that return which splits a file of a format holds itself.
SPLITS: dict[str, Callable[..., tuple[str, ...]]] = {".npz": drawings.splits}
