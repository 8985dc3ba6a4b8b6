"""Reads the user's own text files: one dict of columns for each document.

Files are UTF-8 where they are text, and may be compressed. Plain text, JSON lines and
line-aligned files are read a part at a time; of other formats a file is held in memory
as a whole while it is read.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools

from etils import epath

from transfer_gen import errors
from transfer_gen.data.readers import blobs
from transfer_gen.data.readers import kinds
from transfer_gen.data.readers import patterns
from transfer_gen.data.readers import plain
from transfer_gen.data.readers import sniffing

Example, Options = blobs.Example, blobs.Options
AUTO, LINE, FILE = "auto", "line", "file"


@dataclasses.dataclass(kw_only=True)
class Opened:
  """Files that are recognized and not read yet, apart from what decides the unit.

  Attributes:
    options: How they are read; the unit is decided, or "auto" where no file is plain
      text.
    shares: Share of each part of a mixture, adding up to 1; one part without a mixture.
    notes: One line for each decision that the text itself led to.
    field: The config field that names the files, for messages.
  """
  options: Options
  shares: list[float]
  notes: list[str]
  field: str
  _sources: "list[list[_Source]]"

  @property
  def blobs(self) -> list[blobs.Blob]:
    """All files, as often as they are named."""
    return [blob for part in self._sources for source in part for blob, _ in source]

  def read(self, part: int) -> Iterator[Example]:
    """Yields the documents of a part.

    Those of plain text have one column, `text`, with the original line ends; those of
    line-aligned files have `input` and `target`.

    Raises:
      errors.UserError: If a file is empty, damaged or not of its form.
    """
    for source in self._sources[part]:
      yield from _read(source, self.options, self.field)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """All documents of some files, with what `Opened` says of them.

  Attributes:
    parts: Documents of each part of a mixture.
    shares: Share of each part.
    unit: What a document is in plain text.
    notes: One line for each decision that the text itself led to.
  """
  parts: list[list[Example]]
  shares: list[float]
  unit: str
  notes: list[str]

  @property
  def examples(self) -> list[Example]:
    """All documents, part by part."""
    return [example for part in self.parts for example in part]


def read(paths: str, options: Options, field: str) -> Found:
  """Reads all documents of some files; arguments and errors as of `open` and `read`."""
  opened = open(paths, options, field)
  return Found(parts=[list(opened.read(part)) for part in range(len(opened.shares))],
               shares=opened.shares, unit=opened.options.unit, notes=opened.notes)


def open(paths: str, options: Options, field: str) -> Opened:
  """Opens files, and decides how they are read.

  Args:
    paths: Paths, patterns, pairs and mixtures; see `readers.patterns`.
    options: How files are read. The unit "auto" is decided from the plain texts among
      them, see `plain.layout`.
    field: The config field that holds `paths`, for messages.

  Raises:
    errors.UserError: If a file is missing, damaged or not of its form.
  """
  mixture = patterns.mixture(paths, field)
  if mixture[1:] and field != "train":
    raise errors.UserError(
        f"data.{field}: shares are for training only. List the files with commas.")
  sources = [[_source(item, field) for item in patterns.items(part)]
             for part, _ in mixture]
  _check_unit(sources, options, field)
  options, notes = _decided(
      [blob for part in sources for source in part for blob, reader in source
       if reader is kinds.PLAIN], dataclasses.replace(options, split=field))
  return Opened(options=options, shares=[share for _, share in mixture], notes=notes,
                field=field, _sources=sources)


def listed(paths: str, field: str) -> list[tuple[float, list[blobs.Blob]]]:
  """Returns share and files of each part of a mixture; arguments as of `open`."""
  return [(share, [blob for item in patterns.items(part)
                   for blob, _ in _source(item, field)])
          for part, share in patterns.mixture(paths, field)]


def length(paths: str, field: str) -> int:
  """Returns how many bytes the files take on the disk; arguments as of `open`."""
  return sum(blob.stored for _, found in listed(paths, field) for blob in found)


def lines(path: str) -> list[str]:
  """Returns all lines of a text file, without line ends.

  Raises:
    errors.UserError: If the file is missing or not UTF-8.
  """
  return plain.split_lines(text(path))


def text(path: str) -> str:
  """Returns the contents of a text file, which may be compressed.

  Raises:
    errors.UserError: If the file is missing or not UTF-8.
  """
  patterns.remote.check(path)
  return blobs.Blob(epath.Path(path)).text()


def holds(paths: str, split: str) -> bool:
  """Returns whether files that are given for training hold another split as well."""
  found = [blob for part, _ in patterns.mixture(paths, "train")
           for item in patterns.items(part) for side in patterns.sides(item)
           for blob in patterns.expand(side, "train")]
  return all(blob.ending in kinds.SPLITS and split in kinds.SPLITS[blob.ending](blob)
             for blob in found)


def is_table(paths: str) -> bool:
  """Returns whether the names of files say that documents have columns."""
  ending = epath.Path(paths.strip().removesuffix(".gz").removesuffix(".bz2")
                      .removesuffix(".xz")).suffix
  return is_parallel(paths) or kinds.READERS.get(ending, kinds.PLAIN) != kinds.PLAIN


def is_parallel(paths: str) -> bool:
  """Returns whether some of the paths are pairs of line-aligned files."""
  return "|" in paths and any(
      patterns.sides(item)[1:] for part, _ in patterns.mixture(paths, "train")
      for item in patterns.items(part))


# Files that are read together. A pair of line-aligned files has the reader None.
_Source = list[tuple[blobs.Blob, kinds.Reader | None]]


def _source(item: str, field: str) -> _Source:
  names = patterns.sides(item)
  if names[1:]:
    found = [patterns.expand(name, field) for name in names]
    if len(found) != 2 or any(len(side) != 1 for side in found):
      raise errors.UserError(
          f"data.{field}: `{item}` must name two files, `input|target`; several such"
          " pairs are separated by commas.")
    return [(side[0], None) for side in found]
  expanded = patterns.expand(item, field)
  # An archive may hold a licence beside the data.
  expanded = [blob for blob in expanded
              if not blob.member or blob.ending in kinds.READERS] or expanded
  return [(blob, kinds.READERS[sniffing.ending(blob, kinds.READERS, field)])
          for blob in expanded]


def _check_unit(sources: list[list[_Source]], options: Options, field: str) -> None:
  for pair in (source for part in sources for source in part if source[0][1] is None):
    if options.unit not in (AUTO, LINE):
      raise errors.UserError(
          f"data.{field}: {pair[0][0]} and {pair[1][0]} are line-aligned files, but a"
          f" document would be a {options.unit}. Leave data.unit=auto.")


def _decided(texts: list[blobs.Blob], options: Options) -> tuple[Options, list[str]]:
  """Decides what a document is, where that is left to the text."""
  if options.unit != AUTO or not texts:
    return options, []
  layout = plain.layout(blob.lines(options.held) for blob in texts)
  more = f" and {len(texts) - 1} more" if texts[1:] else ""
  named = {"line": "lines", "paragraph": "paragraphs",
           "file": "whole files" if more else "one document"}[layout.unit]
  return dataclasses.replace(options, unit=layout.unit), [
      f"{texts[0]}{more}: read as {named} ({layout.reason}); data.unit sets it"]


def _read(source: _Source, options: Options, field: str) -> Iterator[Example]:
  if source[0][1] is None:
    yield from _parallel([blob for blob, _ in source], options, field)
    return
  for blob, reader in source:
    assert reader is not None
    found = False
    for example in reader(blob, options):
      found = True
      yield example
    if not found:
      raise errors.UserError(
          f"{blob}: no documents in it. Remove it from data.{field}, or fill it.")


def _parallel(
    pair: Sequence[blobs.Blob], options: Options, field: str) -> Iterator[Example]:
  """Yields the lines of two files side by side."""
  source, target = pair
  sides = [plain.without_ends(blob.lines(options.held)) for blob in pair]
  counts = [0, 0]
  for lines_ in itertools.zip_longest(*sides):
    counts = [count + (line is not None) for count, line in zip(counts, lines_)]
    if None not in lines_:
      yield f"{target}:{counts[1]}", {"input": lines_[0], "target": lines_[1]}
  if counts[0] != counts[1]:
    raise errors.UserError(
        f"data.{field}: {source} has {counts[0]} lines and {target} has"
        f" {counts[1]}. Line-aligned files must have equally many; align them"
        " again.")
  if not counts[0]:
    raise errors.UserError(
        f"data.{field}: {source} and {target} are empty. Give files with text.")
