"""One document: its clean text, and how documents are distinguished."""

from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import re
import unicodedata

SPLITS = ("train", "validation", "test")
FOLD, KEEP = "fold", "keep"  # Values of `config.Data.newline`.
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
    part: Index of the part of a mixture that it comes from; 0 without a mixture.
  """
  input: str
  target: str
  references: tuple[str, ...] = ()
  part: int = 0

  @property
  def answers(self) -> tuple[str, ...]:
    """The target and the references."""
    return (self.target, *self.references)


Splits = dict[str, list[Document]]


def clean(text: str, form: str, newline: str) -> str:
  r"""Cleans a text; training texts and prompts are cleaned alike.

  Control characters are removed, except tabs and line ends.

  Args:
    text: Any text.
    form: Unicode normal form to convert to, such as "NFC"; "none" means no conversion.
    newline: If FOLD, all line ends become \n, and white space at line ends and blank
      lines around the text are removed. If KEEP, white space stays as it is.

  Example:
    >>> from transfer_gen.data import document
    >>> document.clean("one  \r\ntwo\r\n", "NFC", document.FOLD)
    'one\ntwo'
  """
  if form != "none":
    text = unicodedata.normalize(form, text)  # pyrefly: ignore[bad-argument-type]
  if newline == KEEP:
    return _CONTROL.sub("", text)
  text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
  # White space at the start of a line stays: it may be indentation.
  return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def fold(text: str) -> str:
  """Returns a text in the form in which texts are compared: white space is folded."""
  return " ".join(text.split())


def key(document: Document) -> str:
  """Returns what documents of one split have in common.

  It is the input, or the target for a language model. So equal texts, and pairs with
  one input, never stand in two splits.
  """
  return fold(document.input or document.target)


def identities(document: Document) -> Iterable[tuple[str, str]]:
  """Yields what duplicates have in common: the input with each of its answers."""
  return ((fold(document.input), fold(answer)) for answer in document.answers)


def rank(*parts: str) -> int:
  """Returns a hash of 64 bits, the same in every process, unlike Python's own."""
  # A NUL cannot occur in cleaned texts, so it keeps the parts apart.
  digest = hashlib.sha256("\0".join(parts).encode()).digest()
  return int.from_bytes(digest[:8], "big")


def fingerprint(documents: Mapping[str, Iterable[Document]]) -> str:
  """Returns the sha256 (as hex) of all documents of all splits, in their order."""
  digest = hashlib.sha256()
  for split, found in documents.items():
    digest.update(f"{split}\0".encode())
    for document in found:
      for text in (document.input, *document.answers):
        # The length comes first, so that no two lists of texts give the same bytes.
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
  return digest.hexdigest()
