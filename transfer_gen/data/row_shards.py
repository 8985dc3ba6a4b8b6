"""Shards of rows in array_record files: the documents of some chunks, laid out in rows.

Each chunk is laid out on its own, so that a shard can be made without the others. A
record holds as many rows of one length as fit into `_RECORD` bytes.

Axes: N documents, R rows of a record, V vocabulary.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import errno
import os
from typing import Any

from array_record.python import array_record_module
from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.data import fields
from transfer_gen.data import mixing
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import stored_texts
from transfer_gen.data import tokenizers

mixing_lib, store = mixing, stored_texts.store
FACTS, ARRAYS = "facts.json", "arrays.npz"
_RECORD = 2**15
# Grain reads files of groups of one record. Snappy halves them, and unpacks faster than
# batches are asked for.
OPTIONS = "group_size:1,snappy"


@dataclasses.dataclass(frozen=True)
class Job:
  """What all shards of a split have in common.

  Attributes:
    texts: The documents.
    config: The data config.
    tokenizer: Folder of the tokenizer.
    encoder: Config of the model, if it has an encoder.
  """
  texts: stored_texts.Texts
  config: config_lib.Data
  tokenizer: str
  encoder: config_lib.Recurrent | None


def write(job: Job, folder: str, first: int, end: int) -> int:
  """Lays out the documents of the chunks from `first` to `end` and writes their rows.

  Returns:
    The number of chunks.

  Raises:
    errors.UserError: If the disk is full, or documents do not fit the config.
  """
  encoding = _encoding(job.tokenizer, repr((job.config, job.encoder)), job)
  path = epath.Path(folder)
  files: dict[int, _File] = {}
  found = []
  with store.whole.folder(path) as partial, store.whole.writing(path):
    for number in range(first, end):
      documents = [dataclasses.replace(one, part=0) for one in job.texts.chunk(number)]
      if not documents:
        continue
      part = mixing_lib.laid(documents, encoding)
      before = sum(one.facts["read"] for one in found)
      for rows in part.rows:
        if len(rows):
          if rows.length not in files:  # Opening a file empties it.
            files[rows.length] = _File(partial / name_of(rows.length))
          files[rows.length].add(_numbered(rows, before, encoding))
      # Rows are written, and must not be held.
      found.append(dataclasses.replace(part, rows=()))
    for file in files.values():
      file.close()
    _summarize(partial, found, files)
  return end - first


def name_of(length: int) -> str:
  """Returns the name of the file of the rows of a length in its shard."""
  return f"{length}.array_record"


def read_rows(record: bytes, dtype: np.dtype) -> np.ndarray:
  """Returns the rows of a record, as a structured array of their fields."""
  return np.frombuffer(record, dtype)


def dtype_of(described: list[Any]) -> np.dtype:
  """Returns the dtype that `FACTS` describe, in which each row is an entry."""
  return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in described])


class _File:
  """An array_record file that is being written."""

  def __init__(self, path: epath.Path):
    self.path, self.count, self.shared, self.records = path, 0, False, 0
    self.dtype: np.dtype | None = None
    self._held: list[np.ndarray] = []
    with _complaining(path):
      self._writer = array_record_module.ArrayRecordWriter(str(path), OPTIONS)

  def add(self, found: tuple[dict[str, np.ndarray], bool]) -> None:
    arrays, shared = found
    dtype = np.dtype([(name, value.dtype, value.shape[1:])
                      for name, value in arrays.items()])
    assert self.dtype in (None, dtype), (self.dtype, dtype)
    self.dtype, self.shared = dtype, self.shared or shared
    rows = np.empty(len(arrays["inputs"]), dtype)
    for name, value in arrays.items():
      rows[name] = value
    self.count += len(rows)
    rows = np.concatenate([*self._held, rows])
    whole = len(rows) - len(rows) % self.per_record
    for start in range(0, whole, self.per_record):
      self._write(rows[start:start + self.per_record])
    self._held = [rows[whole:].copy()]

  def close(self) -> None:
    if sum(map(len, self._held)):
      self._write(np.concatenate(self._held))
    with _complaining(self.path):
      self._writer.close()

  @property
  def per_record(self) -> int:
    """R."""
    assert self.dtype is not None
    return max(1, _RECORD // self.dtype.itemsize)

  @property
  def described(self) -> list[tuple[str, str, tuple[int, ...]]]:
    """The dtype of a row, as `dtype_of` takes it."""
    assert self.dtype is not None
    return [(name, self.dtype[name].base.str, self.dtype[name].shape)
            for name in self.dtype.names or ()]

  def _write(self, rows: np.ndarray) -> None:
    with _complaining(self.path):
      self._writer.write(rows.tobytes())
    self.records += 1


class _complaining:
  """Turns what array_record raises into the OSError that it stems from."""

  def __init__(self, path: epath.Path):
    self._path = path

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind, error, trace) -> None:
    if isinstance(error, (RuntimeError, ValueError)):
      number = next((number for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT,
                                           errno.EACCES, errno.EROFS)
                     if os.strerror(number).lower() in str(error).lower()), errno.EIO)
      raise OSError(number, os.strerror(number), str(self._path)) from error


def _numbered(
    rows: rows_lib.Rows, before: int, encoding: Any
) -> tuple[dict[str, np.ndarray], bool]:
  """Returns what rows hold, and whether some hold several pieces.

  Args:
    rows: The rows.
    before: Number of documents in the chunks before.
    encoding: How they became tokens.
  """
  shared = rows.positions is not None
  # All shards hold the same fields, whether or not a row of theirs is shared.
  if encoding.encoder is None and not fields.is_pairs(encoding.config) and (
      encoding.config.packing == fields.SEPARATE):
    rows = rows.with_positions()
  documents = np.where(rows.documents < 0, -1, rows.documents + before)
  return rows.arrays | {"documents": documents.astype(np.int32)}, shared


def _summarize(
    folder: epath.Path, found: list[Any], files: Mapping[int, _File]) -> None:
  arrays: dict[str, Any] = {
      "text_bytes": np.concatenate([part.text_bytes() for part in found]),
      "token_counts": sum(part.token_counts for part in found),
      "encoder_token_counts": sum(part.encoder_token_counts for part in found)
  } if found else {}
  np.savez(folder / ARRAYS, **arrays)
  facts = {
      "files": {str(length): {
          "rows": file.count, "records": file.records, "per_record": file.per_record,
          "shared": file.shared,
          "dtype": file.described} for length, file in files.items()},
      "facts": dict(add(part.facts for part in found)),
      "sizes": {path.name: path.stat().length for path in folder.iterdir()}}
  store.write_json(folder / FACTS, facts)


def add(found: Iterator[Mapping[str, Any]]) -> dict[str, Any]:
  """Adds up the facts of several parts, key by key."""
  total: dict[str, Any] = {}
  for facts in found:
    for name, value in facts.items():
      total[name] = add(iter((total.get(name, {}), value))) if isinstance(
          value, Mapping) else total.get(name, 0) + value
  return total


_ENCODINGS: dict[tuple[str, str], Any] = {}


def _encoding(folder: str, key: str, job: Job) -> Any:
  """Returns how texts become tokens; read once in each process."""
  if (folder, key) not in _ENCODINGS:
    _ENCODINGS.clear()
    _ENCODINGS[folder, key] = mixing_lib.encoding_lib.Encoding(
        job.config, tokenizers.load(epath.Path(folder)), job.encoder)
  return _ENCODINGS[folder, key]
