"""What readers take and return; the bytes are plain, compressed, or in zip archives.

Files come from strangers. What inflates them stops at a limit, and nothing is ever
unpacked to disk, so that names of members cannot lead anywhere.
"""

import bz2
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import fnmatch
import gzip
import io
import lzma
import re
from typing import Any, IO

from etils import epath

from transfer_gen import errors
from transfer_gen import free_memory
from transfer_gen import system
from transfer_gen import untrusted
from transfer_gen.formats import archive
from transfer_gen.formats import raw

# A document: where it stands, as `path:line` for messages, and its columns. Columns are
# text, bytes, lists of these, None, or dicts of further columns.
Example = tuple[str, dict[str, Any]]


# Text shrinks to a third or a tenth of its size, and repetitive tables to a thirtieth.
# What inflates much further is no text, but was made to fill the memory.
_RATIO, _FREE = 50, 16 * 2**20  # The second in bytes, for short files.
# Bytes of memory that documents take: for each byte of a text, read, split, cleaned and
# tokenized; and for each line, object or list, however short.
_PER_BYTE, _PER_PART = 8, 800
# Lines, objects or rows that differ take half a byte at least, however well they are
# compressed. The second is allowed to every file.
_PARTS, _FREE_PARTS = 2, 2**17
_AT_ONCE = 2**20  # Bytes that are read, and inflated, at a time.
BLOCK = 2**20  # Characters.
_MARKS = (b"\n", b"{", b"[")  # What each line, object or list of a text has.

# By ending: the first bytes of such a file, and what inflates it.
_MAGIC = 16  # Bytes that show how a file is compressed.
_COMPRESSED: dict[str, tuple[re.Pattern[bytes], Callable[[IO[bytes]], Any]]] = {
    ".gz": (re.compile(rb"\x1f\x8b\x08"), lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": (re.compile(rb"BZh[1-9]1AY&SY"), bz2.BZ2File),
    ".xz": (re.compile(rb"\xfd7zXZ\x00"), lzma.LZMAFile),
}
_ZIP = ".zip"
# A line with its end. `str.splitlines` would also split at form feeds and U+2028, which
# are part of a text.
_LINE = re.compile("[^\n]*\n|[^\n]+")
# What file managers add to archives; it is no data.
_CLUTTER = ("__MACOSX/", ".DS_Store", "Thumbs.db")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What a reader needs beside the file.

  Attributes:
    unit: What a document is in plain text: "line", "paragraph" (which includes the
      blank lines behind it) or "file".
    columns: Names of the columns of `.csv` and `.tsv` files without a header; empty
      for files whose first line names them.
    split: Which split is read of a file that holds several.
    held: Whether all documents of a file will be in memory at a time. Otherwise a text
      that is longer than `BLOCK` and has no units is read in blocks of that size.
  """
  unit: str = "line"
  columns: tuple[str, ...] = ()
  split: str = "train"
  held: bool = True


@dataclasses.dataclass(frozen=True)
class Zip:
  """An open archive, whose directory is parsed once for all of its members."""
  members: dict[str, archive.zipfile.ZipInfo]
  file: archive.zipfile.ZipFile

  def read(self, name: str) -> bytes:
    """Returns the bytes of a member, inflated."""
    return self.file.read(self.members[name])


@dataclasses.dataclass(frozen=True)
class Blob:
  """The bytes of a file, or of a member of a zip archive.

  Attributes:
    path: The file.
    member: Name of the member; empty for the file itself.
    opened: The archive; None for a file.
  """
  path: epath.Path
  member: str = ""
  opened: Zip | None = None

  def __str__(self) -> str:
    """The path as the user may write it, for messages."""
    return f"{self.path}/{self.member}" if self.member else str(self.path)

  @property
  def ending(self) -> str:
    """Ending of the name in lower case, without that of a compression."""
    name = epath.Path(str(self)).name.lower()
    for compression in _COMPRESSED:
      name = name.removesuffix(compression)
    return epath.Path(name).suffix

  def read(self) -> bytes:
    """Returns the contents, inflated.

    Raises:
      errors.UserError: If the file is damaged, or inflates without end.
    """
    with self._open() as (stream, length, ending):
      if ending:
        return b"".join(_inflated(self, ending, length, stream))
      return stream.read()

  def start(self, count: int) -> bytes:
    """Returns the first bytes of the contents, inflated; raises as `read`."""
    with self._open() as (stream, length, ending):
      return next(_inflated(self, ending, length, stream), b"")[:count] if ending else (
          stream.read(count))

  def lines(self, held: bool) -> Iterator[str]:
    """Yields the lines of a text with their ends.

    Args:
      held: Whether all of them will be in memory, which they must then fit into.
        Otherwise a part of the file is read at a time.

    Raises:
      errors.UserError: As `text`.
    """
    if held:
      yield from _LINE.findall(self.text())
      return
    parts, number = 0, 1
    rest: list[bytes] = []  # Of a line that is not complete yet.
    for block in self._blocks():
      parts += sum(map(block.count, _MARKS))
      check_parts(self, self.stored, parts)
      check_memory(self, sum(map(len, rest)))
      whole, end, left = block.rpartition(b"\n")
      if end:
        found = b"".join([*rest, whole, end])
        yield from _LINE.findall(self._decoded(found, number))
        number, rest = number + found.count(b"\n"), []
      rest.append(left)
    yield from _LINE.findall(self._decoded(b"".join(rest), number))

  def _blocks(self) -> Iterator[bytes]:
    with self._open(held=False) as (stream, length, ending):
      if ending:
        yield from _inflated(self, ending, length, stream, held=False)
        return
      while block := stream.read(_AT_ONCE):
        yield block

  @contextlib.contextmanager
  def _open(self, held: bool = True) -> Iterator[tuple[Any, int, str]]:
    """Yields a stream, its length as stored, and how it is compressed, "" if not."""
    if self.opened:
      with raw.malformed(self.path, "zip archive"):
        file = io.BytesIO(self.opened.read(self.member))
    else:
      file = untrusted.opened(self.path)
    with file, system.reading(self):
      length = file.seek(0, io.SEEK_END)
      file.seek(0)
      if held:
        check_memory(self, length)
      start = file.read(_MAGIC)
      file.seek(0)
      for ending, (magic, opened) in _COMPRESSED.items():
        # Files that end otherwise are known by their first bytes.
        if str(self).lower().endswith(ending) or magic.match(start):
          yield opened(file), length, ending
          return
      yield file, length, ""

  def read_parts(self, *marks: bytes) -> bytes:
    """Returns the contents, inflated.

    Args:
      *marks: What lines, objects or rows of its format begin or end with.

    Raises:
      errors.UserError: As `read`, or if there are more of these than in texts.
    """
    data = self.read()
    parts = sum(map(data.count, marks))
    check_parts(self, self.stored, parts)
    check_memory(self, len(data), parts)
    return data

  @property
  def stored(self) -> int:
    """Number of bytes that it takes on the disk."""
    if self.opened:
      return self.opened.members[self.member].compress_size
    return self.path.stat().length

  def text(self) -> str:
    """Returns the contents as text, without a byte order mark at its start.

    Raises:
      errors.UserError: As `read`, or if it is not UTF-8.
    """
    return self._decoded(self.read_parts(*_MARKS), 1)

  def _decoded(self, data: bytes, number: int) -> str:
    """Decodes lines of UTF-8, the first of which has a number in the file."""
    try:
      # Only at the start of a file it is a mark.
      return untrusted.decoded(data) if number == 1 else data.decode("utf-8")
    except UnicodeDecodeError as error:
      line = data.count(b"\n", 0, error.start) + number
      raise errors.UserError(
          f"{self}:{line}: invalid UTF-8 (byte 0x{data[error.start]:02x}). Convert the"
          " file, e.g. `iconv -f latin1 -t utf-8`, or correct the line.") from error


def is_zip(path: epath.Path) -> bool:
  """Returns whether a file is named as zip archives are."""
  return path.suffix.lower() == _ZIP


def members(path: epath.Path, pattern: str = "") -> list[Blob]:
  """Returns the members of a zip archive, sorted by name.

  Args:
    path: The archive.
    pattern: Name of one member, or a pattern with `*` and `?`. Empty means all.

  Raises:
    errors.UserError: If the archive is damaged or hostile, or no member matches.
  """
  opened = _opened_zip(path)
  names = sorted(name for name in opened.members
                 if not any(part in name for part in _CLUTTER))
  if pattern:
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
      raise errors.UserError(
          f"{path}: no member matches {pattern}. It holds {', '.join(names[:6])}"
          f"{', ...' if names[6:] else ''}.")
    names = found
  return [Blob(path, name, opened) for name in names]


def _opened_zip(path: epath.Path) -> Zip:
  """Opens a zip archive, after checks of what it claims.

  Raises:
    errors.UserError: If it is damaged or hostile.
  """
  with raw.malformed(path, "zip archive"):
    found, length = archive.members(path), path.stat().length
    total = sum(info.file_size for info in found.values())
    if total > _limit(length):
      # Members may share their bytes, so that none of them alone claims too much.
      raise errors.UserError(_no_text(length, total))
    for name, info in found.items():
      if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise errors.UserError(
            f"its member {name[:100]!r} would lie outside of a folder. Pack the files"
            " again.")
      if info.file_size > _limit(info.compress_size):
        claim = _no_text(info.compress_size, info.file_size)
        raise errors.UserError(f"{name}: {claim}")
    check_memory(path, total)
    return Zip(found, archive.zipfile.ZipFile(untrusted.opened(path)))


def check_memory(where: Any, length: int, parts: int = 0) -> None:
  """Checks that what a file holds fits into memory as documents.

  Args:
    where: The file, for messages.
    length: Number of bytes that it holds, inflated.
    parts: Number of lines, objects or rows in it.

  Raises:
    errors.UserError: If less memory is free than they take.
  """
  needed, free = _PER_BYTE * length + _PER_PART * parts, free_memory.available()
  if needed > free:
    raise errors.UserError(
        f"{where}: {length:,} bytes in {parts:,} parts take about"
        f" {needed / 2**30:.1f} GiB of memory as documents, and"
        f" {free / 2**30:.1f} GiB are free. Give fewer or smaller files.")


def check_ratio(where: Any, length: int, held: int) -> None:
  """Checks that a file does not unfold to more than texts do.

  Args:
    where: The file, for messages.
    length: Number of its bytes.
    held: Number of bytes that they unfold to, at least.

  Raises:
    errors.UserError: If they are too many.
  """
  if held > _limit(length):
    raise errors.UserError(f"{where}: {_no_text(length, held)}")


def check_parts(where: Any, length: int, parts: int) -> None:
  """Checks that a file does not hold more lines, objects or rows than texts do.

  Args:
    where: The file, for messages.
    length: Number of its bytes as it is stored.
    parts: Their number.

  Raises:
    errors.UserError: If they are too many.
  """
  most = _FREE_PARTS + _PARTS * length
  if parts > most:
    raise errors.UserError(
        f"{where}: its {length:,} bytes hold {parts:,} lines, objects or rows, and at"
        f" most {most:,} are read: most must be equal or empty. Leave these out.")


def _inflated(
    blob: Blob, ending: str, length: int, stream: Any, held: bool = True
) -> Iterator[bytes]:
  inflated = 0
  with raw.malformed(str(blob), f"{ending[1:]} file"):
    try:
      while part := stream.read(_AT_ONCE):
        inflated += len(part)
        if inflated > _limit(length):
          raise errors.UserError(_no_text(length, inflated))
        yield part
    except lzma.LZMAError as error:  # Of no class that the others share.
      raise ValueError(str(error)) from error
  if held:
    check_memory(blob, inflated)


def _no_text(length: int, inflated: int) -> str:
  return (f"its {length:,} bytes inflate to {inflated:,} or more, and at most"
          f" {_limit(length):,} are read: no text shrinks so far. If it is your own,"
          " inflate it and give what comes out.")


def _limit(compressed: int) -> int:
  return _FREE + _RATIO * compressed
