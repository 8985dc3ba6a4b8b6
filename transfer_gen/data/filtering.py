"""Which documents of a split are kept, and what becomes of several right answers."""

from collections import Counter
from collections.abc import Iterable, Iterator
import dataclasses
from typing import Any, Protocol

from transfer_gen import config as config_lib
from transfer_gen.data import document as document_lib
from transfer_gen.data import fields

Document = document_lib.Document


class Seen(Protocol):
  """The identities of documents in later splits; a set is one."""

  def isdisjoint(self, other: Iterable[Any], /) -> bool:
    """Returns whether none of the identities is among them."""
    ...


def keep(
    documents: Iterable[Document], config: config_lib.Data, seen: Seen,
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


def evaluated(
    documents: list[Document], config: config_lib.Data, dropped: Counter[str]
) -> list[Document]:
  """Returns the documents of validation or test, with all answers to one input."""
  if not (config.merge_references and fields.is_pairs(config)):
    return documents
  found = merged(documents)
  if len(found) < len(documents):
    dropped["merged_as_reference"] = len(documents) - len(found)
  return found


def learned(documents: Iterable[Document]) -> Iterator[Document]:
  """Yields a document for each answer: training learns all of them."""
  for document in documents:
    for answer in document.answers:
      yield dataclasses.replace(document, target=answer, references=())
