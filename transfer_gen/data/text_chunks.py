"""Chunks of documents: files are read a part at a time, and each part is written.

What needs all documents at a time is done chunk by chunk: pairs with the same input
become one document with several references only where they stand in one chunk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np
import xxhash

from transfer_gen import config as config_lib
from transfer_gen.data import document as document_lib
from transfer_gen.data import filtering
from transfer_gen.data import reading
from transfer_gen.data import splitting
from transfer_gen.data import store

Document = document_lib.Document
# Characters of a chunk, and what a document counts beside its own: a worker holds some
# ten times as many bytes.
SIZE, _EACH = 2**21, 100


@dataclasses.dataclass(frozen=True)
class Given:
  """What all chunks of one split of the files have in common.

  Attributes:
    folder: Where chunks are written.
    config: The data config.
    split: The split that the files are given for.
    names: Columns of input and target.
    missing: Splits that are split off by hash.
    whole_files: Whether what validates and tests is divided into short pieces, because
      there are few files, each of which is a document.
  """
  folder: str
  config: config_lib.Data
  split: str
  names: tuple[str, str]
  missing: tuple[str, ...]
  whole_files: bool


def cut(examples: Iterable[reading.files.Example]) -> Iterator[list[Any]]:
  """Yields examples in lists of about `SIZE` characters."""
  held, size = [], 0
  for example in examples:
    held.append(example)
    size += _EACH + _length(example[1])
    if size >= SIZE:
      yield held
      held, size = [], 0
  if held:
    yield held


def write(
    given: Given, name: str, part: int, examples: Sequence[reading.files.Example]
) -> int:
  """Cleans, splits and filters the documents of a chunk, and writes them.

  Args:
    given: What is common to chunks.
    name: Name of the chunk.
    part: Part of a mixture that they are of.
    examples: As readers return them.

  Returns:
    The number of characters that were read.
  """
  folder, config = epath.Path(given.folder), given.config
  found: dict[str, list[Document]] = {split: [] for split in (
      given.split, *given.missing)}
  documents = reading.documents(examples, given.names, config, part)
  if given.missing:
    splitting.by_hash(documents, given.missing, found)
  else:
    found[given.split] = documents
  facts: dict[str, Any] = {"part": part, "splits": {}}
  for split, read in found.items():
    if given.whole_files and split != "train":
      read = [piece for one in read for piece in splitting.pieces(
          one, config.newline == document_lib.FOLD)]
    dropped: Counter[str] = Counter()
    seen = Seen(str(_seen(folder, given.split)))
    kept = list(filtering.keep(read, config, seen, dropped))
    kept = (list(filtering.learned(kept)) if split == "train" else
            filtering.evaluated(kept, config, dropped))
    size, digest = _write(folder / f"{name}.{split}.json", kept)
    facts["splits"][split] = {
        "read": len(read), "dropped": dict(dropped), "kept": len(kept),
        "bytes": size, "digest": digest}
  store.write_json(folder / f"{name}.json", facts)  # Last: the chunk is complete.
  return sum(_length(columns) for _, columns in examples)


def read(path: epath.Path, digest: str, part: int) -> list[Document]:
  """Returns the documents of a file that `write` wrote.

  Raises:
    errors.UserError: If the file is missing or damaged.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    raise store.damaged(path.parent, path, "it is missing") from None
  if xxhash.xxh3_64_hexdigest(data) != digest:
    raise store.damaged(path.parent, path, f"its {len(data):,} bytes are not those"
                        " that were written")
  return [Document(given, target, tuple(references), part)
          for given, target, *references in store.whole.parse_json(
              data, whole=False)]


def write_seen(
    folder: epath.Path, split: str, documents: Iterable[Document]) -> None:
  """Writes what is known by 8 bytes for each answer: documents to leave out of a split.

  Args:
    folder: The folder of the chunks.
    split: The split of the files.
    documents: Those that other splits hold.
  """
  digests = np.fromiter(
      (_digest(one) for document in documents
       for one in document_lib.identities(document)), np.uint64)
  with store.whole.writing(folder):
    np.save(_seen(folder, split), np.unique(digests))


class Seen:
  """Identities of documents, by their digests in a file; see `filtering.Seen`."""

  def __init__(self, path: str):
    self._digests = _load(path)

  def isdisjoint(self, other: Iterable[tuple[str, str]], /) -> bool:
    """Returns whether none of the identities is among them."""
    digests = self._digests
    if not len(digests):
      return True
    asked = np.array([_digest(one) for one in other], np.uint64)
    places = np.minimum(np.searchsorted(digests, asked), len(digests) - 1)
    return not (digests[places] == asked).any()


def _write(path: epath.Path, documents: Iterable[Document]) -> tuple[int, str]:
  data = json.dumps([(one.input, *one.answers) for one in documents],
                    ensure_ascii=False).encode()
  store.whole.write_bytes(path, data)
  return len(data), xxhash.xxh3_64_hexdigest(data)


def _seen(folder: epath.Path, split: str) -> epath.Path:
  return folder / f"seen_{split}.npy"


@functools.lru_cache(maxsize=1)
def _load(path: str) -> np.ndarray:
  return np.load(path, mmap_mode="r")


def _digest(identity: tuple[str, str]) -> int:
  # A NUL cannot occur in cleaned texts.
  return xxhash.xxh3_64_intdigest("\0".join(identity).encode("utf-8", "surrogatepass"))


def _length(value: Any) -> int:
  """Returns the number of characters of all texts in a value."""
  if isinstance(value, (str, bytes)):
    return len(value)
  if isinstance(value, dict):
    return sum(map(_length, value.values()))
  return sum(map(_length, value)) if isinstance(value, (list, tuple)) else 0
