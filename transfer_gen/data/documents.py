"""Documents: read, cleaned, filtered, split, and counted.

All documents of a run are held in memory as Python strings; some gigabytes of text
are the limit of this package.
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
# Control characters but tab and line ends, and byte order marks inside text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


@dataclasses.dataclass(frozen=True)
class Document:
  """One text to learn, and for a pair what it is an answer to.

  Attributes:
    input: Empty for a language model, never empty for a pair.
    target: Never empty.
  """
  input: str
  target: str


Splits = dict[str, list[Document]]


def load(config: config_lib.Data) -> tuple[Splits, dict[str, Any]]:
  """Reads the data that a config names.

  Cleaning, then splits, then length filters, then duplicates, then the fraction. A
  document that also stands in a later one of train, validation and test is dropped
  from the earlier one. Only train is cut by `fraction`.

  Returns:
    Documents by split, and facts for data.json: `name`, `version`, `fraction`,
    `fingerprint` (sha256 of the kept documents), and by split the counts `read`,
    `kept`, `chars` and `dropped` by reason.

  Raises:
    errors.UserError: A config or a file that does not fit, or an empty split.
  """
  check(config)
  read, version = _read(config)
  facts: dict[str, Any] = {
      "name": config.name, "version": version, "fraction": config.fraction}
  counts: dict[str, dict[str, Any]] = {
      split: {"read": len(read[split])} for split in SPLITS}
  dropped: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
  kept: Splits = {}
  seen: set[tuple[str, str]] = set()
  for split in reversed(SPLITS):
    kept[split] = list(_filter(read[split], config, seen, dropped[split]))
    seen.update(map(_identity, kept[split]))
  kept = {split: kept[split] for split in SPLITS}
  _check_filled(kept, counts, dropped, config)

  train = _fraction(kept["train"], config)
  if len(train) < len(kept["train"]):
    dropped["train"]["fraction"] = len(kept["train"]) - len(train)
  kept["train"] = train
  for split in SPLITS:
    counts[split] |= {
        "kept": len(kept[split]), "dropped": dropped[split],
        "chars": sum(len(d.input) + len(d.target) for d in kept[split])}
  return kept, facts | {"splits": counts, "fingerprint": fingerprint(kept)}


def check(config: config_lib.Data) -> None:
  """Raises one UserError that lists each field that cannot be right."""
  buckets = tuple(config.buckets)
  misfits = [message for wrong, message in (
      (config.name != "files" and not catalog.known(config.name),
       f"data.name={config.name!r}: must be python_docs, docstring_summary,"
       " tfds:NAME or files"),
      (config.name == "files" and not config.train,
       "data.train is empty: data.name=files needs paths there"),
      (config.name != "files" and bool(
          config.train or config.validation or config.test),
       f"data.train, validation and test are read with data.name=files only, and"
       f" it is {config.name!r}"),
      (config.normalize not in _FORMS,
       f"data.normalize={config.normalize!r}: must be one of {', '.join(_FORMS)}"),
      (config.newline not in (FOLD, KEEP),
       f"data.newline={config.newline!r}: must be {FOLD} or {KEEP}"),
      (config.whole_files and config.paragraphs,
       "data.whole_files and data.paragraphs are both set: take one"),
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
  """Whether documents have an input: a column for it, or line-aligned files."""
  return bool(config.input_field) or files.is_parallel(config.train)


def clean(text: str, form: str, newline: str) -> str:
  r"""Returns a text as models see it, in training and in prompts.

  Unicode normal form (or "none"), no control characters but tabs and line ends.
  Where `newline` is FOLD: \n as the one line end, no white space at line ends, no
  blank lines around.
  """
  if form != "none":
    text = unicodedata.normalize(form, text)  # pyrefly: ignore[bad-argument-type]
  if newline == KEEP:
    return _CONTROL.sub("", text)
  text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
  return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Every text of some documents, for a tokeniser to learn from."""
  for document in documents:
    if document.input:
      yield document.input
    yield document.target


def fingerprint(documents: Mapping[str, Iterable[Document]]) -> str:
  """sha256 over all documents of all splits, in their order."""
  digest = hashlib.sha256()
  for split, found in documents.items():
    digest.update(f"{split}\0".encode())
    for document in found:
      for text in (document.input, document.target):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
  return digest.hexdigest()


def _read(config: config_lib.Data) -> tuple[Splits, str]:
  """Clean documents by split, the missing splits taken from train by hash."""
  if config.name == "files":
    unit = ("file" if config.whole_files else
            "paragraph" if config.paragraphs else "line")
    raw = {
        split: files.read(getattr(config, split), unit=unit, field=split)
        for split in SPLITS if getattr(config, split)}
    version = ""
  else:
    examples, version = catalog.read(config.name)
    raw = {
        split: ((f"{config.name} {split}:{i}", e) for i, e in enumerate(found))
        for split, found in examples.items()}
  read = {
      split: [_document(where, columns, config) for where, columns in found]
      for split, found in raw.items()}
  missing = [split for split in SPLITS if split not in read]
  if "train" in missing:
    raise errors.UserError(
        f"data.name={config.name}: it has no split `train`, only"
        f" {', '.join(read) or 'others'}. Choose another data set.")
  return _split(read, missing), version


def _document(
    where: str, columns: Mapping[str, Any], config: config_lib.Data
) -> Document:
  if files.is_parallel(config.train):
    names = ("input", "target")
  else:
    names = (config.input_field, config.target_field)
  values = [_column(where, columns, name) if name else "" for name in names]
  return Document(*(
      clean(value, config.normalize, config.newline) for value in values))


def _column(where: str, columns: Mapping[str, Any], name: str) -> str:
  if name not in columns:
    raise errors.UserError(
        f"{where}: no column `{name}`; there are {', '.join(map(str, columns))}. Set"
        " data.target_field (and data.input_field for pairs) to one of them.")
  value = columns[name]
  if isinstance(value, bytes):  # TFDS's form of text.
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
  # JSON can spell half a surrogate pair, which no encoding can write.
  if any("\ud800" <= character <= "\udfff" for character in value):
    raise errors.UserError(
        f"{where}: column `{name}` holds half a surrogate pair, which is no"
        " character. Mend the text.")
  return value


def _split(read: Splits, missing: list[str]) -> Splits:
  """Moves a tenth of train, by hash, to each missing split.

  Pairs with one input stay together, and so do equal texts: the hash is of the
  input (of the target for a language model), white space apart.
  """
  if not missing:
    return read
  found: Splits = {split: read.get(split, []) for split in SPLITS} | {
      split: [] for split in ("train", *missing)}
  for document in read["train"]:
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
  """Yields what stays and counts what goes, by reason, in `dropped`."""
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
  """What makes two documents one: their texts, white space apart."""
  return " ".join(document.input.split()), " ".join(document.target.split())


def _check_filled(
    kept: Splits,
    counts: Mapping[str, Mapping[str, int]],
    dropped: Mapping[str, Mapping[str, int]],
    config: config_lib.Data,
) -> None:
  for split in SPLITS:
    if not kept[split]:
      reasons = ", ".join(f"{n} {reason}" for reason, n in dropped[split].items())
      raise errors.UserError(
          f"data: no document is left in {split} ({counts[split]['read']} read;"
          f" dropped: {reasons or 'none'}). Widen min_chars={config.min_chars} and"
          f" max_chars={config.max_chars}, or give paths of data.{split} (name=files)"
          " with more text.")


def _fraction(documents: list[Document], config: config_lib.Data) -> list[Document]:
  """The first share of train in an order that only the seed and texts decide."""
  count = math.ceil(config.fraction * len(documents))
  if count == len(documents):
    return documents
  order = sorted(
      range(len(documents)),
      key=lambda i: (_hash(str(config.seed), *_identity(documents[i])), i))
  return [documents[i] for i in sorted(order[:count])]


def _hash(*parts: str) -> int:
  digest = hashlib.sha256("\0".join(parts).encode()).digest()
  return int.from_bytes(digest[:8], "big")
