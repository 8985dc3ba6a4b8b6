"""Documents of a run: reading, cleaning, splitting, filtering and counting them.

All documents are held in memory as Python strings, which limits a run to some gigabytes
of text.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import math
import re
from typing import Any
import unicodedata

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import catalog
from transfer_gen.data import files

SPLITS = ("train", "validation", "test")
_FORMS = ("NFC", "NFKC", "NFD", "NFKD", "none")
FOLD, KEEP = "fold", "keep"
# Control characters except tab and line ends, and byte order marks inside a text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


@dataclasses.dataclass(frozen=True)
class Document:
  """One text to learn, and for a pair the text that it answers.

  Attributes:
    input: The text to answer; empty for a language model, never empty for a pair.
    target: The text to learn; never empty.
    references: Further right answers beside `target`, which metrics compare with. Only
      pairs of validation and test have any; training learns each answer on its own.
  """
  input: str
  target: str
  references: tuple[str, ...] = ()


Splits = dict[str, list[Document]]


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
  return take_fraction(documents, facts, config.fraction, config.seed)


def read_filtered(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Reads, cleans, splits and filters the data, whatever `config.fraction` is.

  The order is: cleaning, splits, length filters, duplicates. A document that is also in
  a later one of train, validation and test is dropped from the earlier one, so that
  training never sees what the model is evaluated on.

  Returns:
    Documents by split, and facts: `name`, `version`, and in `splits`, by split, the
    counts `read` and `dropped` (by reason).

  Raises:
    errors.UserError: If the config or a file does not fit, or if a split is empty.
  """
  check(config)
  read, version = _read(config)
  dropped: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
  kept: Splits = {}
  seen: set[tuple[str, str]] = set()
  # From test to train, so that of equal documents the one in the last split stays.
  for split in reversed(SPLITS):
    # `seen` grows only when a split is done, so repeats within one split stay: only
    # those across splits would leak what a model is evaluated on.
    kept[split] = list(_filter(read[split], config, seen, dropped[split]))
    seen.update(map(_identity, kept[split]))
  counts = {split: {"read": len(read[split]), "dropped": dropped[split]}
            for split in SPLITS}
  _check_filled(kept, counts, config)
  return ({split: kept[split] for split in SPLITS},
          {"name": config.name, "version": version, "splits": counts})


def take_fraction(
    documents: Splits, facts: Mapping[str, Any], fraction: float, seed: int
) -> tuple[Splits, dict[str, Any]]:
  """Keeps a fraction of the training documents; other splits stay whole.

  Which documents are kept depends only on the seed and their texts, and a smaller
  fraction is a part of a larger one.

  Args:
    documents: As `read_filtered` returns them; they are not changed.
    facts: The facts that `read_filtered` returned; they are not changed.
    fraction: Share of train to keep, above 0 and at most 1; rounded up.
    seed: Decides which documents are kept.

  Returns:
    Documents and facts, as `load` returns them.
  """
  train = _draw(documents["train"], fraction, seed)
  cut = len(documents["train"]) - len(train)
  kept = {**documents, "train": train}
  counts = {}
  for split, found in kept.items():
    before = facts["splits"][split]
    lost = {"fraction": cut} if cut and split == "train" else {}
    counts[split] = {
        "read": before["read"], "kept": len(found),
        "dropped": {**before["dropped"], **lost},
        "chars": sum(len(d.input) + len(d.target) for d in found)}
  return kept, {
      "name": facts["name"], "version": facts["version"], "fraction": fraction,
      "splits": counts, "fingerprint": fingerprint(kept)}


def check(config: config_lib.Data) -> None:
  """Raises one `UserError` that lists all fields of a config that are out of range."""
  buckets = tuple(config.buckets)
  # All misfits are collected, so that a user corrects the config once.
  misfits = [message for wrong, message in (
      (config.name != "files" and not catalog.known(config.name),
       f"data.name={config.name!r}: must be python_docs, docstring_summary,"
       " tfds:NAME or files"),
      (config.name == "files" and not config.train,
       "data.train is empty: data.name=files needs paths there"),
      (config.name != "files" and bool(
          config.train or config.validation or config.test),
       f"data.train, validation and test are only read if data.name=files, and it"
       f" is {config.name!r}"),
      (config.normalize not in _FORMS,
       f"data.normalize={config.normalize!r}: must be one of {', '.join(_FORMS)}"),
      (config.newline not in (FOLD, KEEP),
       f"data.newline={config.newline!r}: must be {FOLD} or {KEEP}"),
      (config.whole_files and config.paragraphs,
       "data.whole_files and data.paragraphs are both set: set only one of them"),
      (not config.target_field,
       "data.target_field is empty: name the column of the text to learn"),
      (not 0 < config.fraction <= 1,
       f"data.fraction={config.fraction}: must be above 0 and at most 1"),
      (config.min_chars < 0, f"data.min_chars={config.min_chars}: must be >= 0"),
      (config.max_chars < 0 or 0 < config.max_chars < config.min_chars,
       f"data.max_chars={config.max_chars}: must be 0 (no limit) or at least"
       f" min_chars={config.min_chars}"),
      (config.length < 2, f"data.length={config.length}: must be at least 2"),
      (any(not 2 <= bucket <= config.length for bucket in buckets),
       f"data.buckets={buckets}: each must be between 2 and"
       f" length={config.length}"),
      (bool(buckets) and not is_pairs(config),
       f"data.buckets={buckets}: buckets are for pairs; a language model (empty"
       " input_field) is packed to `length`. Leave buckets=() or set input_field"),
  ) if wrong]
  if misfits:
    raise errors.UserError("The data config does not fit: " + "; ".join(misfits) + ".")


def is_pairs(config: config_lib.Data) -> bool:
  """Returns whether documents are pairs, from two columns or two aligned files."""
  return bool(config.input_field) or files.is_parallel(config.train)


def clean(text: str, form: str, newline: str) -> str:
  r"""Cleans a text; training texts and prompts are cleaned alike.

  Control characters are removed, except tabs and line ends.

  Args:
    text: Any text.
    form: Unicode normal form to convert to, such as "NFC"; "none" means no conversion.
    newline: If FOLD, all line ends become \n, and white space at line ends and blank
      lines around the text are removed. If KEEP, white space stays as it is.

  Example:
    >>> from transfer_gen.data import documents
    >>> documents.clean("one  \r\ntwo\r\n", "NFC", documents.FOLD)
    'one\ntwo'
  """
  if form != "none":
    text = unicodedata.normalize(form, text)  # pyrefly: ignore[bad-argument-type]
  if newline == KEEP:
    return _CONTROL.sub("", text)
  text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
  # White space at the start of a line stays: it may be indentation.
  return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Yields all inputs and targets of documents, for training a tokenizer."""
  for document in documents:
    if document.input:
      yield document.input
    yield document.target


def fingerprint(documents: Mapping[str, Iterable[Document]]) -> str:
  """Returns the sha256 (as hex) of all documents of all splits, in their order."""
  digest = hashlib.sha256()
  for split, found in documents.items():
    digest.update(f"{split}\0".encode())
    for document in found:
      for text in (document.input, document.target, *document.references):
        # The length comes first, so that no two lists of texts give the same bytes.
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
  return digest.hexdigest()


def _read(config: config_lib.Data) -> tuple[Splits, str]:
  """Returns clean documents by split, and the version of the data set.

  Splits that the data does not have are taken from train.
  """
  raw, version = _raw(config)
  read = {
      split: [_document(where, columns, config) for where, columns in found]
      for split, found in raw.items()}
  missing = [split for split in SPLITS if split not in read]
  if "train" in missing:
    raise errors.UserError(
        f"data.name={config.name}: the data set has no split `train`, only"
        f" {', '.join(read) or 'others'}. Choose another data set.")
  return _split(read, missing), version


def _raw(
    config: config_lib.Data) -> tuple[dict[str, Iterable[files.Example]], str]:
  """Returns examples by split, each with where it is from, and the set's version."""
  if config.name == "files":
    # `check` has refused a config with both.
    unit = ("file" if config.whole_files else
            "paragraph" if config.paragraphs else "line")
    return {
        split: files.read(getattr(config, split), unit=unit, field=split)
        for split in SPLITS if getattr(config, split)}, ""
  examples, version = catalog.read(config.name)
  return {
      split: ((f"{config.name} {split}:{i}", e) for i, e in enumerate(found))
      for split, found in examples.items()}, version


def _document(
    where: str, columns: Mapping[str, Any], config: config_lib.Data
) -> Document:
  if files.is_parallel(config.train):
    names = ("input", "target")
  else:
    names = (config.input_field, config.target_field)
  source, target = (
      clean(_column(where, columns, name) if name else "", config.normalize,
            config.newline) for name in names)
  return Document(source, target)


def _column(where: str, columns: Mapping[str, Any], name: str) -> str:
  if name not in columns:
    raise errors.UserError(
        f"{where}: there is no column `{name}`, only {', '.join(map(str, columns))}."
        " Set data.target_field (and data.input_field for pairs) to one of them.")
  value = columns[name]
  if isinstance(value, bytes):  # TFDS stores text as bytes.
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError as error:
      raise errors.UserError(
          f"{where}: column `{name}` is not UTF-8 text ({error.reason}). Choose"
          " another column.") from error
  if not isinstance(value, str):
    raise errors.UserError(
        f"{where}: column `{name}` holds a {type(value).__name__}, not text. Choose"
        " another column, or write it as one string.")
  # JSON can escape half of a surrogate pair, which UTF-8 cannot encode.
  if any("\ud800" <= character <= "\udfff" for character in value):
    raise errors.UserError(
        f"{where}: column `{name}` holds half of a surrogate pair, which is not a"
        " character. Correct the text.")
  return value


def _split(read: Splits, missing: list[str]) -> Splits:
  """Moves a tenth of train, chosen by hash, to each missing split.

  The hash is that of the input (of the target for a language model) with white space
  folded. So equal texts, and pairs with the same input, end up in the same split.
  """
  if not missing:
    return read
  found: Splits = {split: read.get(split, []) for split in SPLITS} | {
      split: [] for split in ("train", *missing)}
  for document in read["train"]:
    # Each missing split has a rank of its own. If the user adds a test file later, the
    # validation split stays the same.
    rank = _hash(" ".join((document.input or document.target).split())) % 10
    split = {8: "validation", 9: "test"}.get(rank, "train")
    found[split if split in missing else "train"].append(document)
  return found


def _filter(
    documents: Iterable[Document],
    config: config_lib.Data,
    seen: set[tuple[str, str]],
    dropped: dict[str, int],
) -> Iterator[Document]:
  """Yields the documents to keep, and counts the others in `dropped`, by reason."""
  pairs = is_pairs(config)
  for document in documents:
    sides = (document.input, document.target) if pairs else (document.target,)
    if not all(side.strip() for side in sides):
      reason = "empty"
    elif min(map(len, sides)) < config.min_chars:
      reason = "too_short"
    elif config.max_chars and max(map(len, sides)) > config.max_chars:
      reason = "too_long"
    elif _identity(document) in seen:
      reason = "duplicate"
    else:
      yield document
      continue
    dropped[reason] = dropped.get(reason, 0) + 1


def _identity(document: Document) -> tuple[str, str]:
  """Returns what duplicates have in common: their texts with white space folded."""
  return " ".join(document.input.split()), " ".join(document.target.split())


def _check_filled(
    kept: Splits,
    counts: Mapping[str, Mapping[str, Any]],
    config: config_lib.Data,
) -> None:
  for split in SPLITS:
    if not kept[split]:
      dropped = counts[split]["dropped"]
      reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
      raise errors.UserError(
          f"data: no document is left in {split} ({counts[split]['read']} read;"
          f" dropped: {reasons or 'none'}). Widen min_chars={config.min_chars} and"
          f" max_chars={config.max_chars}, or give paths of data.{split} (name=files)"
          " with more text.")


def _draw(documents: list[Document], fraction: float, seed: int) -> list[Document]:
  """Returns a share of documents, in their order; the seed and texts decide which."""
  # Rounded up, so that a small fraction of a small split is not empty.
  count = math.ceil(fraction * len(documents))
  if count == len(documents):
    return documents
  # Ranks are hashes of the texts and not random draws by position, so that adding or
  # removing a document leaves the choice among the others as it is.
  # The index breaks ties between documents with equal texts.
  order = sorted(
      range(len(documents)),
      key=lambda i: (_hash(str(seed), *_identity(documents[i])), i))
  return [documents[i] for i in sorted(order[:count])]


def _hash(*parts: str) -> int:
  """Returns a hash that is the same in every process, unlike Python's own."""
  # A NUL cannot occur in cleaned texts, so it keeps the parts apart.
  digest = hashlib.sha256("\0".join(parts).encode()).digest()
  return int.from_bytes(digest[:8], "big")
