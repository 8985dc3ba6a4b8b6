"""Rows of large data, which are read from array_record files when they are needed.

Axes: N documents, B rows of a batch, T positions.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import grain
import numpy as np

from transfer_gen import untrusted
from transfer_gen.data import mixing
from transfer_gen.data import row_shards
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import stored_texts
from transfer_gen.data import tokenizers

store, Document = stored_texts.store, stored_texts.Document
_FORMAT = 1  # Of what is in the folders; a change makes others.
_CHUNKS = 32  # Chunks of a shard: few files, and a kill repeats little.
# Fields of a data config that decide what is in a row.
_FIELDS = ("length", "too_long", "packing", "template", "buckets")


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """A file as Grain asks for it; its length is known without opening it."""
  filename: str
  skip: int
  take: int
  examples_in_shard: int


@dataclasses.dataclass(frozen=True)
class Stored:
  """Rows of one length in files; otherwise as `rows.Rows`.

  Attributes:
    length: T.
    folder: Folder of the shards.
    dtype: What a row holds.
    per_record: Number of rows of a record.
    ends: i64[shards], number of rows up to the end of each shard.
    records: i64[shards], number of records before each shard.
    documents: i64[shards], number of documents before each shard.
    shared: Whether some rows hold several pieces.
    source: The records.
    hidden: What is stored of a model's frozen beginning; see `rows.Rows`.
  """
  length: int
  folder: epath.Path
  dtype: np.dtype
  per_record: int
  ends: np.ndarray
  records: np.ndarray
  documents: np.ndarray
  shared: bool
  source: Sequence[bytes]
  hidden: Any = None

  def __len__(self) -> int:
    return int(self.ends[-1])

  @property
  def corrupted(self) -> bool:
    """Whether the rows are corrupted anew in each epoch."""
    return "clean" in (self.dtype.names or ())

  def take(self, index: np.ndarray) -> rows_lib.Rows:
    """Reads the rows at the indices i64[B].

    Raises:
      errors.UserError: If a file is damaged.
    """
    index = np.asarray(index)
    shards = np.searchsorted(self.ends, index, side="right")
    inside = index - np.where(shards, self.ends[shards - 1], 0)
    wanted, places = np.unique(
        self.records[shards] + inside // self.per_record, return_inverse=True)
    found = np.empty(len(index), self.dtype)
    for number, record in enumerate(self._read(wanted)):
      rows = np.flatnonzero(places == number)
      found[rows] = row_shards.read_rows(record, self.dtype)[
          inside[rows] % self.per_record]
    arrays = {name: found[name] for name in self.dtype.names or ()}
    if not self.shared:
      arrays.pop("positions", None)
    arrays["documents"] = np.where(
        arrays["documents"] < 0, -1,
        arrays["documents"] + self.documents[shards][:, None]).astype(np.int32)
    return rows_lib.Rows(**arrays)

  def batch(self, index: np.ndarray) -> rows_lib.Batch:
    """Returns the rows at the indices i64[B] as a batch."""
    batch = self.take(index).batch(np.arange(len(index)))
    return batch | ({} if self.hidden is None else self.hidden[index])

  def evaluation_batch(self, index: np.ndarray) -> rows_lib.Batch:
    """Returns a batch with the documents that targets belong to."""
    batch = self.take(index).evaluation_batch(np.arange(len(index)))
    return batch | ({} if self.hidden is None else self.hidden[index])

  def all(self) -> rows_lib.Rows:
    """Reads all rows into memory."""
    return self.take(np.arange(len(self)))

  def _read(self, wanted: np.ndarray) -> Sequence[bytes]:
    try:
      return self.source.__getitems__(wanted.tolist())  # pyrefly: ignore
    # Of array_record, which has no class of its own for files that are damaged.
    except (OSError, RuntimeError, ValueError, IndexError) as error:
      raise store.damaged(
          self.folder, self.folder, f"rows cannot be read ({error})") from error


def part(
    split: str, documents: Sequence[Document], encoding: mixing.encoding_lib.Encoding,
    facts: Mapping[str, Any],
) -> mixing.Part:
  """Does what `mixing.part` does, in files if the documents are in files.

  Raises:
    errors.UserError: As `mixing.part`; if a file is damaged or cannot be written.
  """
  if not isinstance(documents, stored_texts.Texts):
    return mixing.part(split, documents, encoding, facts)
  config = encoding.config
  folder = store.folder("rows", [
      _FORMAT, row_shards.OPTIONS, documents.facts, _CHUNKS,
      tokenizers.fingerprint(encoding.tokenizer), bool(encoding.chat),
      {name: getattr(config, name) for name in _FIELDS}, repr(config.corrupt),
      repr(encoding.encoder)])
  noise = mixing.noise_lib.build(encoding)  # Refuses what lacks a token at once.
  with store.alone(folder):
    shards = _make(folder, documents, encoding)
  found = [_Shard(path) for path in shards]
  counted = row_shards.add(shard.facts["facts"] for shard in found)
  rows, counts = _rows(folder, documents, found)
  return mixing.Part(
      rows=rows, counts=counts, noise=noise,
      facts=mixing.describe(split, counted, encoding, facts),
      token_counts=_sum(shards, "token_counts"),
      encoder_token_counts=_sum(shards, "encoder_token_counts"),
      text_bytes=functools.partial(_text_bytes, tuple(shards)))


class _Shard:
  """What is known of a shard that was written."""

  def __init__(self, path: epath.Path):
    self.path, self.facts = path, untrusted.read_json(path / row_shards.FACTS)
    for name, size in self.facts["sizes"].items():
      found = (path / name).stat().length if (path / name).exists() else 0
      if found != size:
        raise store.damaged(path, path / name, f"it has {found:,} bytes, and {size:,}"
                            " were written")


def _make(
    folder: epath.Path, texts: stored_texts.Texts,
    encoding: mixing.encoding_lib.Encoding) -> list[epath.Path]:
  """Writes the shards that are missing; returns all."""
  tokenizer = folder / tokenizers.FOLDER
  shards = [folder / f"{first:06}_{end:06}" for first, end in _ranges(texts)]
  todo = [(path, *bounds) for path, bounds in zip(shards, _ranges(texts))
          if not path.exists()]
  if not todo:
    return shards
  if not tokenizer.exists():
    with store.whole.folder(tokenizer) as partial:
      encoding.tokenizer.save(partial / "saved")
  job = row_shards.Job(
      texts=texts, config=encoding.config, tokenizer=str(tokenizer / "saved"),
      encoder=encoding.encoder)
  done = sum(end - first for first, end in _ranges(texts)) - sum(
      end - first for _, first, end in todo)
  with store.progress.track(
      f"tokenizing {texts.split}", len(texts.chunks), "chunk", done) as work:
    store.run(row_shards.write, ((job, str(path), first, end)
                                 for path, first, end in todo), len(todo), work)
  return shards


def _ranges(texts: stored_texts.Texts) -> list[tuple[int, int]]:
  """Returns the chunks of each shard, which are of one part."""
  found: list[tuple[int, int]] = []
  for number, chunk in enumerate(texts.chunks):
    if found and number - found[-1][0] < _CHUNKS and (
        texts.chunks[found[-1][0]].part == chunk.part):
      found[-1] = (found[-1][0], number + 1)
    else:
      found.append((number, number + 1))
  return found


def _rows(
    folder: epath.Path, texts: stored_texts.Texts, shards: Sequence[_Shard]
) -> tuple[list[Stored], np.ndarray]:
  """Returns the rows of each length, and i64[lengths, parts], their number."""
  parts = [texts.chunks[first].part for first, _ in _ranges(texts)]
  documents = np.array([shard.facts["facts"].get("read", 0) for shard in shards])
  before = np.cumsum(documents) - documents
  lengths = sorted({int(name) for shard in shards for name in shard.facts["files"]})
  found, counts = [], np.zeros((len(lengths), max(parts) + 1), np.int64)
  for place, length in enumerate(lengths):
    held = [(number, shard.facts["files"][str(length)])
            for number, shard in enumerate(shards)
            if str(length) in shard.facts["files"]]
    numbers = [number for number, _ in held]
    for number, file in held:
      counts[place, parts[number]] += file["rows"]
    records = np.array([file["records"] for _, file in held])
    name = row_shards.name_of(length)
    source = grain.sources.ArrayRecordDataSource([
        _Instruction(str(shards[number].path / name), 0, count, count)
        for number, count in zip(numbers, records.tolist())])
    found.append(Stored(
        length=length, folder=folder, dtype=row_shards.dtype_of(held[0][1]["dtype"]),
        per_record=held[0][1]["per_record"],
        ends=np.cumsum([file["rows"] for _, file in held]),
        records=np.cumsum(records) - records, documents=before[numbers],
        shared=any(file["shared"] for _, file in held), source=source))
  return found, counts


def _arrays(shard: epath.Path) -> Mapping[str, np.ndarray]:
  return store.whole.read_npz(shard / row_shards.ARRAYS)


def _sum(shards: Sequence[epath.Path], name: str) -> np.ndarray:
  return np.sum([found[name] for found in map(_arrays, shards) if name in found], 0)


def _text_bytes(shards: Sequence[epath.Path]) -> np.ndarray:
  return np.concatenate([found["text_bytes"] for found in map(_arrays, shards)
                         if "text_bytes" in found])
