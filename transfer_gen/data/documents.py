"""Documents of a run: reading, cleaning, splitting, filtering and counting them.

Documents are held in memory as Python strings, or lie in files if there are many, see
`stored_texts`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import math
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import document as document_lib
from transfer_gen.data import filtering
from transfer_gen.data import splitting
from transfer_gen.data import stored_texts

Document, SPLITS, merged = document_lib.Document, document_lib.SPLITS, filtering.merged
fields, reading, spread = (
    stored_texts.fields, stored_texts.reading, stored_texts.spread)
Splits = Mapping[str, Sequence[Document]]


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
  found = stored_texts.read(config)
  kept, facts = _held(config) if found is None else found
  _check_filled(kept, facts["splits"], config)
  return kept, facts


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
  train = draw(documents["train"], math.ceil(config.fraction * count), config.seed)
  _check_parts(train, len(facts["shares"]))
  cut = len(documents["train"]) - len(train)
  kept = {**documents, "train": train}
  fingerprint, chars = stored_texts.summarize(kept)
  counts = {}
  for split, found in kept.items():
    before = facts["splits"][split]
    lost = {"fraction": cut} if cut and split == "train" else {}
    counts[split] = {
        "read": before["read"], "kept": len(found),
        "dropped": {**before["dropped"], **lost},
        "chars": chars[split]}
  return kept, {**facts, "fraction": config.fraction, "splits": counts,
                "fingerprint": fingerprint}


def draw(documents: Sequence[Document], count: int, seed: int) -> Sequence[Document]:
  """Returns some of the documents, in their order; see `splitting.draw`."""
  if isinstance(documents, stored_texts.Texts):
    return documents.draw(count, seed)
  return splitting.draw(list(documents), count, seed)


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Yields all inputs and targets of documents, for training a tokenizer."""
  for document in documents:
    if document.input:
      yield document.input
    yield document.target


def _held(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Does what `read_filtered` does, with all documents in memory."""
  read, facts = _split(config)
  dropped: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
  kept: dict[str, list[Document]] = {}
  seen: set[tuple[str, str]] = set()
  # From test to train, so that of equal documents the one in the last split stays.
  for split in reversed(SPLITS):
    # `seen` grows only when a split is done, so repeats within one split stay: only
    # those across splits would leak what a model is evaluated on.
    kept[split] = list(filtering.keep(read[split], config, seen, dropped[split]))
    for found in kept[split]:
      seen.update(document_lib.identities(found))
    if split != "train":
      kept[split] = _evaluated(kept[split], split, config, dropped[split])
  kept["train"] = list(filtering.learned(kept["train"]))
  counts = {split: {"read": len(read[split]), "dropped": dict(dropped[split])}
            for split in SPLITS}
  return {split: kept[split] for split in SPLITS}, {**facts, "splits": counts}


def _split(config: config_lib.Data) -> tuple[document_lib.Splits, dict[str, Any]]:
  """Returns clean documents by split, and facts of the data set.

  Splits that the data does not have are taken from train.
  """
  read, facts, unit = reading.read(config)
  found, note = splitting.split(
      read, config.split, whole_files=unit == "file" and not fields.is_pairs(config),
      fold=config.newline == document_lib.FOLD)
  return found, {**facts, "notes": [*facts["notes"], *([note] if note else [])]}


def _evaluated(
    documents: list[Document], split: str, config: config_lib.Data,
    dropped: Counter[str],
) -> list[Document]:
  """Returns the documents that a split is evaluated on."""
  found = filtering.evaluated(documents, config, dropped)
  limit = getattr(config, f"max_{split}")
  if 0 < limit < len(found):
    dropped["limit"] = len(found) - limit
    found = splitting.draw(found, limit, config.seed)
  return found


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
  if empty := set(range(parts)) - stored_texts.parts(train):
    raise errors.UserError(
        f"data.train: no document is left of part {min(empty) + 1} of the mixture."
        " Leave it out, give it more text, or raise data.fraction.")
