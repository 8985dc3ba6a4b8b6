"""What readers take and return; the bytes are plain, compressed, or in zip archives.

Files come from strangers. What inflates them stops at a limit, and nothing is ever
unpacked to disk, so that names of members cannot lead anywhere.
"""

import bz2
from collections.abc import Callable
import dataclasses
import fnmatch
import gzip
import io
import lzma
import re
from typing import Any, IO

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import archive
from transfer_gen.formats import raw

# A document: where it stands, as `path:line` for messages, and its columns. Columns are
# text, bytes, lists of these, None, or dicts of further columns.
Example = tuple[str, dict[str, Any]]


# Text shrinks to a third or a tenth of its size, and repetitive tables to a hundredth.
# What inflates much further is no text, but was made to fill the memory.
_RATIO, _FREE = 200, 16 * 2**20  # The second in bytes, for short files.

# By ending: the first bytes of such a file, and what inflates it.
_COMPRESSED: dict[str, tuple[re.Pattern[bytes], Callable[[IO[bytes]], Any]]] = {
    ".gz": (re.compile(rb"\x1f\x8b\x08"), lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": (re.compile(rb"BZh[1-9]1AY&SY"), bz2.BZ2File),
    ".xz": (re.compile(rb"\xfd7zXZ\x00"), lzma.LZMAFile),
}
_ZIP = ".zip"
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
  """
  unit: str = "line"
  columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Blob:
  """The bytes of a file, or of a member of a zip archive.

  Attributes:
    path: The file.
    member: Name of the member; empty for the file itself.
  """
  path: epath.Path
  member: str = ""

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
    if self.member:
      # The archive's directory is read again for each member, which costs little
      # beside the member itself.
      info = zip_members(self.path)[self.member]
      with raw.malformed(self.path, "zip archive"):
        data = archive.read(self.path, info)
    else:
      data = self.path.read_bytes()
    for ending, (magic, opened) in _COMPRESSED.items():
      # Files that end otherwise are known by their first bytes.
      if str(self).lower().endswith(ending) or magic.match(data):
        return _inflate(str(self), ending, data, opened)
    return data

  def text(self) -> str:
    """Returns the contents as text, without a byte order mark at its start.

    Raises:
      errors.UserError: As `read`, or if it is not UTF-8.
    """
    data = self.read()
    try:
      return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
      line = data.count(b"\n", 0, error.start) + 1
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
  names = sorted(name for name in zip_members(path)
                 if not any(part in name for part in _CLUTTER))
  if pattern:
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
      raise errors.UserError(
          f"{path}: no member matches {pattern}. It holds {', '.join(names[:6])}"
          f"{', ...' if names[6:] else ''}.")
    names = found
  return [Blob(path, name) for name in names]


def zip_members(path: epath.Path) -> dict[str, archive.zipfile.ZipInfo]:
  """Returns the files in a zip archive by name, after checks of what it claims.

  Raises:
    errors.UserError: If it is damaged or hostile.
  """
  with raw.malformed(path, "zip archive"):
    found = archive.members(path)
    for name, info in found.items():
      if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise errors.UserError(
            f"its member {name[:100]!r} would lie outside of a folder. Pack the files"
            " again.")
      if info.file_size > _limit(info.compress_size):
        raise errors.UserError(
            f"{name} would inflate {info.compress_size} bytes to {info.file_size},"
            " which no text does. If it is your own, inflate it and give the files.")
  return found


def _inflate(
    name: str, ending: str, data: bytes, opened: Callable[[IO[bytes]], Any]
) -> bytes:
  limit = _limit(len(data))
  with raw.malformed(epath.Path(name), f"{ending[1:]} file"):
    try:
      inflated = opened(io.BytesIO(data)).read(limit + 1)
    except lzma.LZMAError as error:  # Of no class that the others share.
      raise ValueError(str(error)) from error
    if len(inflated) > limit:
      raise errors.UserError(
          f"{len(data)} bytes inflate to more than {limit}, which no text does. If it"
          " is your own, inflate it and give the inflated file.")
  return inflated


def _limit(compressed: int) -> int:
  return _FREE + _RATIO * compressed
