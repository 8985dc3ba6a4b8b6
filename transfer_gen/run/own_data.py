"""Documents of the user's own to evaluate a run on, of files or of a data set."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.data import catalog
from transfer_gen.data import documents as documents_lib
from transfer_gen.data import fields
from transfer_gen.data import reading

Document = documents_lib.Document
_LONGEST = 1024  # Tokens of a row: a model may name far more than memory holds.
# Buckets double from here on: less than about half of a longer row is padding, and only
# a few programs are compiled.
_SHORTEST_BUCKET = 32


def configure(
    run: config_lib.Run, paths: str, input_field: str = "", target_field: str = "",
    converted: bool = False, marks: bool = False,
) -> config_lib.Run:
  """Returns a run that reads other documents as it reads its own.

  Args:
    run: Config of the run.
    paths: The documents, as of `read`.
    input_field: Column of the inputs; if empty, that of the run.
    target_field: Column of the targets; if empty, that of the run.
    converted: Whether no data belongs to the run. It then takes documents up to the
      longest that its model can read.
    marks: Whether its tokenizer marks where texts begin or end. A document of a
      converted checkpoint then has no line end of its own; without marks it keeps it.
  """
  data = run.data
  if is_set(paths):
    data = dataclasses.replace(
        data, name=paths, train="", validation="", test="", fraction=1.0)
  elif converted:
    # A pair of files shows a model without data of its own that documents are pairs.
    data = dataclasses.replace(data, name="files", train=paths)
  data = dataclasses.replace(
      data, input_field=input_field or data.input_field,
      target_field=target_field or data.target_field)
  if converted:
    data = _long(data, run.model)
    data = dataclasses.replace(data, newline="fold") if marks else data
  return dataclasses.replace(run, data=data)


def is_set(paths: str) -> bool:
  """Returns whether a text names a data set and no files."""
  return not catalog.misfit(paths)


def read(
    run: config_lib.Run, paths: str, split: str) -> tuple[Sequence[Document], int]:
  """Reads documents.

  Args:
    run: As `configure` returns it.
    paths: Files, as of `config.Data.test`, or the name of a data set.
    split: Split of a data set.

  Returns:
    The documents, and how many texts were left out because they are blank. Pairs with
    equal inputs are one document with several references.

  Raises:
    errors.UserError: If a file or a data set does not fit.
  """
  if is_set(paths):
    return documents_lib.load(run.data)[0][split], 0
  found = reading.read_more(paths, run.data)
  kept = [document for document in found
          if (document.input or document.target).strip()]
  left_out = len(found) - len(kept)
  if run.data.merge_references and fields.is_pairs(run.data):
    kept = documents_lib.merged(kept)
  return kept, left_out


def _long(data: config_lib.Data, model: Any) -> config_lib.Data:
  """Makes room for all that a model can read, in rows of several lengths."""
  longest = min(getattr(model, "max_length", _LONGEST), _LONGEST)
  if not fields.is_pairs(data):
    return dataclasses.replace(data, length=longest)
  buckets, size = [], _SHORTEST_BUCKET
  while size < longest:
    buckets.append(size)
    size *= 2
  return dataclasses.replace(data, length=longest, buckets=tuple(buckets))
