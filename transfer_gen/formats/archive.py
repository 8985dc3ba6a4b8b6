"""Reads members of zip archives, by name or by byte range."""

import struct
import zipfile

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # Signature, lengths of name and extra.
# Deflate expands a byte to at most 1032; the rest is room for very short members.
_INFLATE = 1100


def members(path: epath.Path) -> dict[str, zipfile.ZipInfo]:
  """Returns the files in an archive by name.

  Raises:
    errors.UserError: If two have one name, one is encrypted, or a size cannot be true.
  """
  found = {}
  with untrusted.opened(path) as file, zipfile.ZipFile(file) as archive:
    for info in archive.infolist():
      if info.is_dir():
        continue
      # Readers differ in which of two they take, so such an archive means two things.
      if info.filename in found:
        raise errors.UserError(f"it has two members {info.filename!r}.")
      _check(info, path.stat().length)
      found[info.filename] = info
  return found


def read(path: epath.Path, info: zipfile.ZipInfo) -> bytes:
  """Reads a whole member into memory; it must be small."""
  with untrusted.opened(path) as file, zipfile.ZipFile(file) as archive:
    return archive.read(info)


def stored(info: zipfile.ZipInfo) -> bool:
  """Returns whether a member's bytes lie in the archive uncompressed."""
  return info.compress_type == zipfile.ZIP_STORED


def offset(path: epath.Path, info: zipfile.ZipInfo) -> int:
  """Returns where the data of a stored member begins, in bytes.

  Raises:
    errors.UserError: If there is no such member at the place that the archive gives.
  """
  assert stored(info)
  with untrusted.opened(path) as file:
    file.seek(info.header_offset)
    # The lengths come from the local header: its extra field may be longer than the one
    # in the directory, since PyTorch pads it to align the storages.
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
  start = info.header_offset + _LOCAL_HEADER.size + name + extra
  if signature != b"PK\x03\x04" or start + info.file_size > path.stat().length:
    raise errors.UserError(f"{info.filename} is not where its archive says.")
  return start


def _check(info: zipfile.ZipInfo, archive_bytes: int) -> None:
  if info.flag_bits & 1:
    raise errors.UserError(f"{info.filename} is encrypted.")
  # These sizes are only claims. They are checked before anything is inflated, because a
  # few bytes can ask for any amount of memory.
  if (info.header_offset + info.compress_size > archive_bytes
      or info.file_size > _INFLATE * (info.compress_size + 1)
      or stored(info) and info.file_size != info.compress_size):
    raise errors.UserError(
        f"{info.filename} would take {info.file_size} bytes of"
        f" {info.compress_size}. Fetch or save it again.")
