"""Documents of large data, which are read from files when they are needed.

Files of more than `LARGE` bytes are read once, in chunks that several processes clean,
split and filter, and that stay in the cache for all runs that read the same. Validation
and test are split off by hash, so that one pass is enough.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, overload

from etils import epath
import xxhash

from transfer_gen import config as config_lib
from transfer_gen import untrusted
from transfer_gen.data import reading
from transfer_gen.data import splitting
from transfer_gen.data import store
from transfer_gen.data import text_chunks

document_lib = reading.document_lib
fields, files = reading.fields, reading.files
Document = document_lib.Document
LARGE = 2**23  # Bytes of files that documents in memory are made of.
_SPREAD = 16  # Chunks that a vocabulary is learned from.
_FORMAT = 1  # Of what is in the folders; a change makes others.
_INDEX = "index.json"
_DRAWINGS = (".npz", ".ndjson")
# Fields of a data config that decide what is in a chunk.
_FIELDS = ("input_field", "target_field", "columns", "unit", "normalize", "newline",
           "min_chars", "max_chars", "drop_empty", "merge_references")

# Of a split, its files, columns and notes.
_Opened = Mapping[str, tuple[Any, Any, Any]]


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A file of documents.

  Attributes:
    name: Name of the chunk.
    part: Part of a mixture that its documents are of.
    start: Number of documents of the split in the chunks before.
    count: Number of its documents.
    kept: Number of those that are drawn.
    digest: What its bytes are known by.
  """
  name: str
  part: int
  start: int
  count: int
  kept: int
  digest: str


@dataclasses.dataclass(frozen=True)
class Texts(Sequence[Document]):
  """The documents of a split; one chunk of them is in memory at a time.

  Attributes:
    folder: The folder of the chunks.
    split: Name of the split.
    chunks: All chunks, in order.
    seed: Seed by which some documents are drawn.
    last: Place and index of the last one that is drawn, see `splitting.last_drawn`;
      None if all are.
  """
  folder: str
  split: str
  chunks: tuple[Chunk, ...]
  seed: int = 0
  last: tuple[int, int] | None = None

  def __len__(self) -> int:
    return sum(chunk.kept for chunk in self.chunks)

  def __iter__(self) -> Iterator[Document]:
    for number in range(len(self.chunks)):
      yield from self.chunk(number)

  @overload
  def __getitem__(self, index: int) -> Document: ...

  @overload
  def __getitem__(self, index: slice) -> list[Document]: ...

  def __getitem__(self, index: int | slice) -> Document | list[Document]:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    for number, chunk in enumerate(self.chunks):
      if index < chunk.kept:
        return self.chunk(number)[index]
      index -= chunk.kept
    raise IndexError(index)

  @property
  def facts(self) -> list[Any]:
    """What distinguishes these documents from others, as JSON can hold it."""
    return [epath.Path(self.folder).name, self.split, self.last and (
        [self.seed, *self.last])]

  def chunk(self, number: int) -> list[Document]:
    """Returns the documents of a chunk; those of the last ones stay in memory."""
    return _chunk(self.folder, self.split, self.chunks[number], self.seed, self.last)

  def draw(self, count: int, seed: int) -> "Texts":
    """Returns some of the documents, those that `splitting.draw` takes."""
    if count >= len(self):
      return self
    assert self.last is None, "drawn once"
    path = epath.Path(self.folder) / f"{self.split}.drawn_{count}_{seed}.json"
    if not path.exists():
      last = splitting.last_drawn(
          lambda: (splitting.place(one, seed) for one in self), count)
      drawn = dataclasses.replace(self, seed=seed, last=last)
      store.write_json(path, [last, [
          len(drawn.chunk(number)) for number in range(len(self.chunks))]])
    last, counts = untrusted.read_json(path)
    return dataclasses.replace(self, seed=seed, last=tuple(last), chunks=tuple(
        dataclasses.replace(chunk, kept=kept)
        for chunk, kept in zip(self.chunks, counts)))


def read(
    config: config_lib.Data
) -> tuple[dict[str, Sequence[Document]], dict[str, Any]] | None:
  """Reads large files into chunks, unless they are there already.

  Returns:
    Documents and facts as of `documents.read_filtered`; None if the data are not large,
    or need all documents at a time.

  Raises:
    errors.UserError: If a file does not fit, or the cache cannot be written.
  """
  if config.name != "files" or sum(
      files.length(paths, split) for split, paths, _ in reading.paths_of(config)
  ) <= LARGE:
    return None
  # In order of reading: what is given for validation and test is in no other split.
  opened: _Opened = {split: (found, names, notes) for split, found, names, notes
                     in reading.open_files(config, held=False)}
  missing = tuple(split for split in document_lib.SPLITS if split not in opened)
  blobs = [blob for found, _, _ in opened.values() for blob in found.blobs]
  if missing and config.split == splitting.END or any(
      blob.ending in _DRAWINGS for blob in blobs):
    return None
  folder = store.folder("texts", [
      _FORMAT, text_chunks.SIZE, files.blobs.BLOCK, _contents(config),
      fields.is_pairs(config), {name: getattr(config, name) for name in _FIELDS}])
  with store.alone(folder):
    if not (folder / _INDEX).exists():
      _make(folder, config, opened, missing)
  facts: dict[str, Any] = {
      "name": config.name, "version": "", "shares": opened["train"][0].shares,
      "notes": [note for _, _, notes in opened.values() for note in notes] + [
          f"{sum(blob.stored for blob in blobs):,} bytes: their rows are kept in files,"
          f" in the folder that {store.VARIABLE} names"]}
  if missing:
    facts["notes"].append(f"{' and '.join(missing)} split off train by hash")
  return _found(folder, config, facts, missing)


def summarize(
    documents: Mapping[str, Sequence[Document]]) -> tuple[str, dict[str, int]]:
  """Returns the fingerprint of documents, and the number of characters of each split.

  Those of stored documents are computed once.
  """
  stored = [found for found in documents.values() if isinstance(found, Texts)]
  facts = json.dumps([found.facts for found in stored]).encode()
  path = epath.Path(stored[0].folder) / (
      f"summary_{xxhash.xxh3_64_hexdigest(facts)}.json") if stored else None
  if path is None or not path.exists():
    found = document_lib.fingerprint(documents), {
        split: sum(len(one.input) + sum(map(len, one.answers)) for one in texts)
        for split, texts in documents.items()}
    if path is None:
      return found
    store.write_json(path, found)
  fingerprint, chars = untrusted.read_json(path)
  return fingerprint, chars


def spread(documents: Sequence[Document]) -> Iterator[Document]:
  """Yields all documents, or of stored ones some chunks, which lie evenly among all.

  What is learned of text, such as a vocabulary, hardly differs between as much as this
  and more, and would take more memory.
  """
  if not isinstance(documents, Texts):
    yield from documents
    return
  count = len(documents.chunks)
  for number in sorted({i * count // _SPREAD for i in range(_SPREAD)}):
    yield from documents.chunk(number)


def parts(documents: Sequence[Document]) -> set[int]:
  """Returns the parts of a mixture that documents are of."""
  if isinstance(documents, Texts):
    return {chunk.part for chunk in documents.chunks if chunk.kept}
  return {document.part for document in documents}


def _contents(config: config_lib.Data) -> list[Any]:
  """Returns what the files hold: a digest for each, in the order of reading."""
  found: list[Any] = []
  known: dict[str, str] = {}
  for split, paths, _ in reading.paths_of(config):
    # How paths are joined to pairs and mixtures is part of it, and where they lie not.
    found.append([split, [[share, [_hash(blob, known) for blob in blobs]]
                          for share, blobs in files.listed(paths, split)]])
  return found


def _hash(blob: Any, known: dict[str, str]) -> str:
  path = str(blob.path)
  if path not in known:
    digest = xxhash.xxh3_128()
    with untrusted.opened(blob.path) as file:
      while block := file.read(2**20):
        digest.update(block)
    known[path] = digest.hexdigest()
  return f"{known[path]} {blob.member} {blob.ending}"


def _make(
    folder: epath.Path, config: config_lib.Data, opened: _Opened,
    missing: tuple[str, ...]) -> None:
  """Writes the chunks that are missing, and then the index."""
  total = sum(blob.stored for found, _, _ in opened.values() for blob in found.blobs)
  index: list[str] = []
  with store.progress.track("reading texts", total, "byte") as work:
    for split in reversed(document_lib.SPLITS):
      if split not in opened:
        continue
      found, names, _ = opened[split]
      text_chunks.write_seen(folder, split, _later(folder, index))
      given = text_chunks.Given(
          str(folder), config, split, names, missing if split == "train" else (),
          found.options.unit == "file" and not fields.is_pairs(config)
          and len(found.blobs) < splitting.FEW_FILES)
      added: list[str] = []
      store.run(text_chunks.write, _tasks(given, found, added),
                total // text_chunks.SIZE, work)
      index = [*added, *index]
  store.write_json(folder / _INDEX, index)


def _tasks(given: text_chunks.Given, opened: files.Opened, names: list[str]
           ) -> Iterator[tuple[Any, ...]]:
  """Yields the arguments of each chunk that is not written; adds to the names."""
  for part in range(len(opened.shares)):
    for number, examples in enumerate(text_chunks.cut(opened.read(part))):
      names.append(f"{given.split}_{part}_{number:06}")
      if not (epath.Path(given.folder) / f"{names[-1]}.json").exists():
        yield given, names[-1], part, examples


def _later(folder: epath.Path, index: Sequence[str]) -> Iterator[Document]:
  facts = [(name, untrusted.read_json(folder / f"{name}.json")) for name in index]
  for split in document_lib.SPLITS[1:]:
    yield from Texts(str(folder), split, _chunks(facts, split))


def _found(
    folder: epath.Path, config: config_lib.Data, facts: dict[str, Any],
    missing: Sequence[str]
) -> tuple[dict[str, Sequence[Document]], dict[str, Any]] | None:
  """Returns documents and facts; None if there are too few to split by hash."""
  chunks = [(name, untrusted.read_json(folder / f"{name}.json"))
            for name in untrusted.read_json(folder / _INDEX)]
  counts = {split: _counts(found["splits"].get(split) for _, found in chunks)
            for split in document_lib.SPLITS}
  if missing and config.split == splitting.AUTO and sum(
      counts[split]["read"] for split in ("train", *missing)) < splitting.FEW:
    return None
  kept: dict[str, Sequence[Document]] = {}
  for split in document_lib.SPLITS:
    found = Texts(str(folder), split, _chunks(chunks, split))
    limit = 0 if split == "train" else getattr(config, f"max_{split}")
    if 0 < limit < len(found):
      counts[split]["dropped"]["limit"] = len(found) - limit
      found = found.draw(limit, config.seed)
    kept[split] = found
  return kept, {**facts, "splits": counts}


def _chunks(found: Iterable[tuple[str, Any]], split: str) -> tuple[Chunk, ...]:
  chunks, start = [], 0
  for name, facts in found:
    if counts := facts["splits"].get(split):
      count = counts["kept"]
      chunks.append(Chunk(name, facts["part"], start, count, count, counts["digest"]))
      start += count
  return tuple(chunks)


def _counts(found: Iterable[dict[str, Any] | None]) -> dict[str, Any]:
  total: dict[str, Any] = {"read": 0, "dropped": {}}
  for counts in found:
    if counts:
      total["read"] += counts["read"]
      for cause, count in counts["dropped"].items():
        total["dropped"][cause] = total["dropped"].get(cause, 0) + count
  return total


# Of two splits, as both may be read at a time.
@functools.lru_cache(maxsize=2)
def _chunk(
    folder: str, split: str, chunk: Chunk, seed: int, last: tuple[int, int] | None
) -> list[Document]:
  found = text_chunks.read(
      epath.Path(folder) / f"{chunk.name}.{split}.json", chunk.digest, chunk.part)
  return found if last is None else [
      one for i, one in enumerate(found, chunk.start)
      if (splitting.place(one, seed), i) <= last]
