"""Documents of a run: reading, cleaning, splitting, filtering and counting them.

All documents are held in memory as Python strings, which limits a run to some gigabytes
of text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import document as document_lib
from transfer_gen.data import fields
from transfer_gen.data import reading
from transfer_gen.data import splitting

Document, Splits, SPLITS = (
    document_lib.Document, document_lib.Splits, document_lib.SPLITS)


def load(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Reads, cleans, splits and filters the data, and takes `fraction` of train.

  Returns:
    Documents by split, and the facts for data.json: those of `read_filtered`, with
    `fraction`, `fingerprint` (sha256 of the kept documents), and in `splits` also the
    counts `kept` and `chars`.

  Raises:
    errors.UserError: If the config or a file does not fit, or if a split is empty.
  """
  documents, facts = read_filtered(config)
  return take_fraction(documents, facts, config)


def read_filtered(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Reads, cleans, splits and filters the data, whatever `config.fraction` is.

  The order is: cleaning, splits, length filters, duplicates, references, limits. A
  document that is also in a later one of train, validation and test is dropped from the
  earlier one, so that training never sees what the model is evaluated on.

  Returns:
    Documents by split, and facts: `name`, `version`, `notes` (what was decided by the
    texts, one line each), `shares` (of the parts of a mixture), and in `splits`, by
    split, the counts `read` and `dropped` (by reason).

  Raises:
    errors.UserError: If the config or a file does not fit, or if a split is empty.
  """
  fields.check(config)
  read, facts = _split(config)
  dropped: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
  kept: Splits = {}
  seen: set[tuple[str, str]] = set()
  # From test to train, so that of equal documents the one in the last split stays.
  for split in reversed(SPLITS):
    # `seen` grows only when a split is done, so repeats within one split stay: only
    # those across splits would leak what a model is evaluated on.
    kept[split] = list(_filter(read[split], config, seen, dropped[split]))
    for found in kept[split]:
      seen.update(document_lib.identities(found))
    if split != "train":
      kept[split] = _evaluated(kept[split], split, config, dropped[split])
  kept["train"] = list(_learned(kept["train"]))
  counts = {split: {"read": len(read[split]), "dropped": dict(dropped[split])}
            for split in SPLITS}
  _check_filled(kept, counts, config)
  return ({split: kept[split] for split in SPLITS}, {**facts, "splits": counts})


def take_fraction(
    documents: Splits, facts: Mapping[str, Any], config: config_lib.Data
) -> tuple[Splits, dict[str, Any]]:
  """Keeps a fraction of the training documents; other splits stay whole.

  Which documents are kept depends only on the seed and their texts, and a smaller
  fraction is a part of a larger one.

  Args:
    documents: As `read_filtered` returns them; they are not changed.
    facts: The facts that `read_filtered` returned; they are not changed.
    config: `fraction` is the share of train to keep, rounded up; `seed` decides which.

  Returns:
    Documents and facts, as `load` returns them.

  Raises:
    errors.UserError: If the config does not fit, or the fraction holds no document.
  """
  fields.check(config)
  count = len(documents["train"])
  # One of a hundred documents is 0.01 of them, whatever its last digits are.
  if config.fraction * count < 1 - 1e-6:
    raise errors.UserError(
        f"data.fraction: {config.fraction:g} of {count:,} training documents is less"
        f" than one of them. Give at least {1 / count:.2g}, or more documents.")
  train = splitting.draw(
      documents["train"], math.ceil(config.fraction * count), config.seed)
  _check_parts(train, len(facts["shares"]))
  cut = len(documents["train"]) - len(train)
  kept = {**documents, "train": train}
  counts = {}
  for split, found in kept.items():
    before = facts["splits"][split]
    lost = {"fraction": cut} if cut and split == "train" else {}
    counts[split] = {
        "read": before["read"], "kept": len(found),
        "dropped": {**before["dropped"], **lost},
        "chars": sum(len(d.input) + sum(map(len, d.answers)) for d in found)}
  return kept, {**facts, "fraction": config.fraction, "splits": counts,
                "fingerprint": document_lib.fingerprint(kept)}


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Yields all inputs and targets of documents, for training a tokenizer."""
  for document in documents:
    if document.input:
      yield document.input
    yield document.target


def _split(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Returns clean documents by split, and facts of the data set.

  Splits that the data does not have are taken from train.
  """
  read, facts, unit = reading.read(config)
  found, note = splitting.split(
      read, config.split, whole_files=unit == "file" and not fields.is_pairs(config),
      fold=config.newline == document_lib.FOLD)
  return found, {**facts, "notes": [*facts["notes"], *([note] if note else [])]}


def _filter(
    documents: Iterable[Document],
    config: config_lib.Data,
    seen: set[tuple[str, str]],
    dropped: Counter[str],
) -> Iterator[Document]:
  """Yields the documents to keep, and counts the others in `dropped`, by reason."""
  pairs = fields.is_pairs(config)
  for document in documents:
    sides = (document.input, document.target) if pairs else (document.target,)
    if not all(side.strip() for side in sides):
      dropped["empty"] += 1
    elif min(map(len, sides)) < config.min_chars:
      dropped["too_short"] += 1
    elif config.max_chars and max(map(len, sides)) > config.max_chars:
      dropped["too_long"] += 1
    elif not seen.isdisjoint(document_lib.identities(document)):
      dropped["duplicate"] += 1
    else:
      yield document


def _evaluated(
    documents: Sequence[Document], split: str, config: config_lib.Data,
    dropped: Counter[str],
) -> list[Document]:
  """Returns the documents that a split is evaluated on."""
  found = list(documents)
  if config.merge_references and fields.is_pairs(config):
    found = merged(found)
    if len(found) < len(documents):
      dropped["merged_as_reference"] = len(documents) - len(found)
  limit = getattr(config, f"max_{split}")
  if 0 < limit < len(found):
    dropped["limit"] = len(found) - limit
    found = splitting.draw(found, limit, config.seed)
  return found


def merged(documents: Iterable[Document]) -> list[Document]:
  """Makes one document of all pairs that have the same input, with all answers."""
  found: dict[str, Document] = {}
  for document in documents:
    first = found.setdefault(document_lib.fold(document.input), document)
    # A dict keeps the order, and drops answers that were given twice.
    answers = dict.fromkeys([*first.answers, *document.answers])
    found[document_lib.fold(document.input)] = dataclasses.replace(
        first, references=tuple(answers)[1:])
  return list(found.values())


def _learned(documents: Iterable[Document]) -> Iterator[Document]:
  """Yields a document for each answer: training learns all of them."""
  for document in documents:
    for answer in document.answers:
      yield dataclasses.replace(document, target=answer, references=())


def _check_filled(
    kept: Splits, counts: Mapping[str, Mapping[str, Any]], config: config_lib.Data
) -> None:
  for split in SPLITS:
    if not kept[split]:
      dropped = counts[split]["dropped"]
      reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
      raise errors.UserError(
          f"data: no document is left in {split} ({counts[split]['read']} read;"
          f" dropped: {reasons or 'none'}). Widen min_chars={config.min_chars} and"
          f" max_chars={config.max_chars}, or give paths of data.{split} (name=files)"
          " with more text, or set data.split=end.")


def _check_parts(train: Sequence[Document], parts: int) -> None:
  if empty := set(range(parts)) - {document.part for document in train}:
    raise errors.UserError(
        f"data.train: no document is left of part {min(empty) + 1} of the mixture."
        " Leave it out, give it more text, or raise data.fraction.")
