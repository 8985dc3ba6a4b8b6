"""What a model writes for documents: answers to inputs, or continuations of texts."""

from collections.abc import Sequence
import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import documents as documents_lib
from transfer_gen.run import decode

Document, TextModel = documents_lib.Document, decode.TextModel
_WORDS = 8  # Words of a text that a language model is given to continue.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
  """What a model wrote for some documents, in their order.

  Attributes:
    inputs: What the model was given.
    references: What each output is compared with; () where there is nothing.
    outputs: What it wrote.
    too_long: Number of inputs that were longer than the model can read.
  """
  inputs: list[str]
  references: list[tuple[str, ...]]
  outputs: list[str]
  too_long: int = 0


def prompt(
    document: Document, reverse: bool = False) -> tuple[str, tuple[str, ...]]:
  """Returns what a model is given of a document, and what its output is compared with.

  A pair gives its input, and its target with all further references. A text is cut
  behind its first eight words; if it has no more, there is nothing to compare with.

  Args:
    document: The document.
    reverse: Whether a text is cut before its last eight words instead, see
      `Data.reverse`.
  """
  if document.input:
    answers = (document.target, *document.references)
    return document.input, tuple(answer for answer in answers if answer)
  # At single spaces, so that joining gives back line ends and runs of spaces.
  words = document.target.split(" ")
  at = max(len(words) - _WORDS, 0) if reverse else _WORDS
  first, last = " ".join(words[:at]), " ".join(words[at:])
  # The space goes with the word behind it, as in most tokenizers: a word without one
  # would begin a text, before which there is nothing to write.
  given, rest = (f" {last}" if first else last, first) if reverse else (first, last)
  return given, (rest,) if rest.strip() else ()


def write(
    model: TextModel, documents: Sequence[Document],
    decoding: config_lib.Decoding) -> Written:
  """Lets a model write one text for each document.

  Args:
    model: The model.
    documents: Pairs to answer, or texts: to restore if the model has learned to, and
      else to continue. A text that ends within its first eight words is left out where
      it would be continued.
    decoding: How texts are written. Of several for an input, the best counts.

  Raises:
    errors.UserError: If nothing is left to write, or as `decode.answers`.
  """
  restores = bool(model.data.corrupt.noise)
  asked = [(given, right) for document in documents
           for given, right in [
               (document.target, (document.target,)) if restores
               else prompt(document, model.data.reverse)]
           if document.input or right]
  if not asked:
    raise errors.UserError(
        f"All {len(documents)} texts end within their first {_WORDS} words, so that"
        " nothing is left to write. Give longer texts, or metrics of losses.")
  inputs = [given for given, _ in asked]
  found = decode.answers(model, inputs, decoding, progress="input")
  return Written(
      inputs=inputs, references=[right for _, right in asked],
      outputs=[texts[0] for texts in found.texts], too_long=len(found.too_long))
