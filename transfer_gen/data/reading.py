"""Reads the documents of a data config, from files or from a data set by name."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.data import catalog
from transfer_gen.data import document as document_lib
from transfer_gen.data import fields
from transfer_gen.data import files
from transfer_gen.data import values

Document, Splits = document_lib.Document, document_lib.Splits


def read(config: config_lib.Data) -> tuple[Splits, dict[str, Any], str]:
  """Reads and cleans the documents of each split that the data has.

  Returns:
    Documents by split; the facts `name`, `version`, `notes` (what the texts decided,
    one line each) and `shares` (of the parts of a mixture); and what a document is in
    plain text: "line", "paragraph" or "file".

  Raises:
    errors.UserError: If a file does not fit, or if there is no split `train`.
  """
  facts = {"name": config.name, "version": "", "notes": [], "shares": [1.0]}
  if config.name == "files":
    splits, unit = _files(config, facts)
    return splits, facts, unit
  examples, facts["version"] = catalog.read(config.name)
  names = fields.names(config, "")
  return {split: documents(
      [(f"{config.name} {split}:{i}", columns) for i, columns in enumerate(found)],
      names, config) for split, found in examples.items()}, facts, ""


def read_more(paths: str, config: config_lib.Data) -> list[Document]:
  """Reads other files as a data config reads its own, such as texts to evaluate on.

  Nothing is split off, dropped or filtered, and documents with one input stay apart.
  Beside a config of pairs, each line of a plain text is an input with an empty target.

  Args:
    paths: As of `config.Data.test`.
    config: Says which columns to read and how texts are cleaned. Its own paths are not
      read, but a pair of line-aligned files among them makes a document a pair.

  Raises:
    errors.UserError: If a file does not fit, or if it holds no document.
  """
  options, names = fields.options(config), fields.names(config, paths)
  if names[0]:
    options = dataclasses.replace(options, unit=files.LINE)
  examples = files.read(paths, options, "test").examples
  if names[0] and all(columns.keys() == {"text"} for _, columns in examples):
    return [Document(fields.clean(columns["text"], config), "")
            for _, columns in examples]
  return documents(examples, names, config)


def open_files(
    config: config_lib.Data, held: bool = True
) -> Iterator[tuple[str, files.Opened, tuple[str, str], list[str]]]:
  """Opens the user's files, split by split.

  Args:
    config: The data config.
    held: Whether all documents will be in memory, see `readers.blobs.Options`.

  Yields:
    Name of the split; its files; the columns of input and target; and lines for the
    user.

  Raises:
    errors.UserError: If a file is missing, damaged or not of its form.
  """
  options = dataclasses.replace(fields.options(config), held=held)
  for split, paths, notes in paths_of(config):
    opened = files.open(paths, options, split)
    # What the training text decides holds for the others too, however short they are.
    options = dataclasses.replace(options, unit=opened.options.unit)
    yield split, opened, fields.names(config, paths), [*notes, *opened.notes]


def paths_of(config: config_lib.Data) -> Iterator[tuple[str, str, list[str]]]:
  """Yields each split that the user's files hold, their paths, and lines about it."""
  for split in document_lib.SPLITS:
    if paths := getattr(config, split):
      yield split, paths, []
    elif files.holds(config.train, split):
      yield split, config.train, [f"{split} is that of {config.train}"]


def documents(
    examples: Sequence[files.Example], names: tuple[str, str],
    config: config_lib.Data, part: int = 0,
) -> list[Document]:
  """Returns clean documents.

  Args:
    examples: As readers return them.
    names: Columns of input and target.
    config: Says how texts are cleaned.
    part: Part of a mixture that they are of.

  Raises:
    errors.UserError: If a column is missing or holds no text.
  """
  cleaned = lambda text: fields.clean(text, config)
  return [Document(sides.input, sides.answers[0], sides.answers[1:], part)
          for sides in values.sides(examples, names, cleaned, config.drop_empty)]


def _files(
    config: config_lib.Data, facts: dict[str, Any]) -> tuple[Splits, str]:
  """Reads the user's files, and adds to the facts; returns also the unit of text."""
  splits, unit = {}, config.unit
  for split, opened, names, notes in open_files(config):
    facts["notes"] += notes
    unit = opened.options.unit
    if split == "train":
      facts["shares"] = opened.shares
    splits[split] = [
        document for part in range(len(opened.shares))
        for document in documents(list(opened.read(part)), names, config, part)]
  return splits, unit
