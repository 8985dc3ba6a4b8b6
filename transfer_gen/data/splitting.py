"""Divides documents into splits, and takes some of a split, always the same ones."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import math

import numpy as np

from transfer_gen.data import document as document_lib

Document, Splits, SPLITS = (
    document_lib.Document, document_lib.Splits, document_lib.SPLITS)
AUTO, HASH, END = "auto", "hash", "end"
KINDS = (AUTO, HASH, END)
# With fewer documents, chance could leave a split empty, or with most of the text.
FEW = 20
FEW_FILES = 10
_PIECE = 1000  # Characters of what a long text is evaluated by.


def split(
    read: Splits, how: str, whole_files: bool, fold: bool) -> tuple[Splits, str]:
  """Moves a tenth of train to each of validation and test that is missing.

  By hash, the texts decide where a document goes: its order and neighbors do not
  matter, and if a test file is added later, validation stays the same. At the end, the
  last tenth tests and the one before validates. Where a part of a mixture, or the data,
  are fewer than ten whole files, each file is divided so, and what validates and tests
  becomes documents of about 1,000 characters: an interval needs more than one.

  Args:
    read: Documents by split; "train" is there.
    how: "hash", "end", or "auto": at the end for fewer than 20 documents.
    whole_files: Whether each document is a whole file of plain text.
    fold: Whether blank lines at the ends of divided texts are removed.

  Returns:
    Documents of every split, and a line that says how they were divided; empty if no
    split was missing.
  """
  missing = [split for split in SPLITS if split not in read]
  if whole_files:
    read = {name: documents if name == "train" or len(documents) >= FEW_FILES
            else [piece for one in documents for piece in pieces(one, fold)]
            for name, documents in read.items()}
  if not missing:
    return read, ""
  train = read["train"]
  if how == AUTO:
    how = END if len(train) < FEW else HASH
  found: Splits = {split: read.get(split, []) for split in SPLITS} | {
      split: [] for split in ("train", *missing)}
  if how == HASH:
    by_hash(train, missing, found)
    return found, f"{' and '.join(missing)} split off train by hash"
  # Part by part, or the last parts of a mixture would be left out of training.
  for part in sorted({document.part for document in train}):
    members = [document for document in train if document.part == part]
    if whole_files and len(members) < FEW_FILES:
      _divide(members, missing, found, fold)
    else:
      _at_end(members, missing, found)
  return found, f"{' and '.join(missing)} split off at the end of train"


def draw(documents: list[Document], count: int, seed: int) -> list[Document]:
  """Returns some of the documents, in their order; the seed and texts decide which.

  Fewer documents are always among those that a larger count gives.
  """
  if count >= len(documents):
    return documents
  # The index breaks ties between documents with equal texts.
  order = sorted(
      range(len(documents)), key=lambda i: (place(documents[i], seed), i))
  return [documents[i] for i in sorted(order[:count])]


def place(document: Document, seed: int) -> int:
  """Returns a number of 64 bits; `draw` takes the documents with the least ones."""
  # Hashes of the texts and not random draws by position, so that adding or removing a
  # document leaves the choice among the others as it is.
  return document_lib.rank(str(seed), document_lib.fold(document.input),
                           document_lib.fold(document.target))


def last_drawn(
    places: Callable[[], Iterable[int]], count: int) -> tuple[int, int]:
  """Returns the place and index of the last document that `draw` takes.

  It takes all whose place and index are not greater. They are counted by the first bits
  of their places, so that memory does not grow with their number.

  Args:
    places: Returns `place` of each document, from the first one on; called twice.
    count: How many are taken, at least 1 and at most all.
  """
  bins = np.zeros(2**16, np.int64)
  for found in places():
    bins[found >> 48] += 1
  before = np.cumsum(bins) - bins
  last = int(np.searchsorted(np.cumsum(bins), count))
  inside = sorted((found, i) for i, found in enumerate(places()) if found >> 48 == last)
  return inside[count - 1 - int(before[last])]


def by_hash(
    train: Iterable[Document], missing: Sequence[str], found: Splits) -> None:
  """Adds each document to the split that the hash of its text names.

  Args:
    train: The documents.
    missing: Splits that the data does not have.
    found: Gets them; it has a list for each of `missing`, and for "train".
  """
  for document in train:
    # Each missing split has a rank of its own. If the user adds a test file later, the
    # validation split stays the same.
    rank = document_lib.rank(document_lib.key(document)) % 10
    split = {8: "validation", 9: "test"}.get(rank, "train")
    found[split if split in missing else "train"].append(document)


def _at_end(
    train: Sequence[Document], missing: Sequence[str], found: Splits) -> None:
  # Texts are counted once, at their first place, so that no two splits share one.
  keys = list(dict.fromkeys(map(document_lib.key, train)))
  tenth = max(1, round(len(keys) / 10))
  homes = {}
  for split in reversed(missing):  # Test is last.
    homes |= dict.fromkeys(keys[-tenth:], split)
    keys = keys[:-tenth]
  for document in train:
    found[homes.get(document_lib.key(document), "train")].append(document)


def _divide(
    train: Sequence[Document], missing: Sequence[str], found: Splits, fold: bool
) -> None:
  """Divides each text at line starts, so that its last tenths go to other splits."""
  for document in train:
    text, start = document.target, 0
    for number, split in enumerate(("train", *missing), 1):
      left = len(missing) + 1 - number
      goal = math.ceil(len(text) * (1 - left / 10))
      # Behind the line that the goal lies in; within a line only if it is the last one.
      end = text.find("\n", max(goal - 1, 0)) + 1 if left else len(text)
      end = end if start < end < len(text) or not left else goal
      part = dataclasses.replace(document, target=_stripped(text[start:end], fold))
      found[split] += [part] if split == "train" else pieces(part, fold)
      start = end


def pieces(document: Document, fold: bool) -> list[Document]:
  """Divides a text at line starts into pieces of about 1,000 characters."""
  text, found, start = document.target, [], 0
  while start < len(text):
    end = text.find("\n", start + _PIECE - 1) + 1
    # What would be left is too short to stand alone.
    end = end if start < end <= len(text) - _PIECE // 2 else len(text)
    found.append(dataclasses.replace(
        document, target=_stripped(text[start:end], fold)))
    start = end
  return found


def _stripped(text: str, fold: bool) -> str:
  return text.strip("\n") if fold else text
