"""Recognizes the format of files whose ending says nothing, by how they begin."""

from collections.abc import Collection

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.data.readers import blobs

# First bytes of formats that are not text.
_MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
_SHOWN = 2**16  # Bytes of a file that are looked at.


def ending(blob: blobs.Blob, known: Collection[str], field: str) -> str:
  """Returns the ending that a file should have.

  Args:
    blob: The file.
    known: The endings of all formats; that of plain text is `.txt`.
    field: The config field that names the file, for messages.

  Raises:
    errors.UserError: If its beginning is that of no format and not text either.
  """
  if blob.ending in known:
    return blob.ending
  start = blob.start(_SHOWN)
  for magic, found in _MAGIC.items():
    if start.startswith(magic):
      return found
  if found := _of_text(start):
    return found
  raise errors.UserError(
      f"data.{field}: {blob} ends in {blob.ending or 'nothing'!r} and does not look"
      f" like text; the known endings are {', '.join(known)}, each also with .gz,"
      " .bz2 or .xz, or in a .zip. Rename or convert it.")


def _of_text(start: bytes) -> str:
  """Returns the ending of a text's format; empty if it is no text of a known one."""
  if b"\0" in start:
    return ""
  # Cut bytes may end within a character. What is not UTF-8 anywhere else is for the
  # reader to refuse, which names the line.
  text = start.decode("utf-8", "ignore").removeprefix("\ufeff").lstrip()
  if text.startswith("<"):
    # Other markup, such as HTML, would be learned with its tags.
    return ".tmx" if "<tmx" in text[:2000] else ""
  return ".json" if _is_json(text) else ".txt"


def _is_json(text: str) -> bool:
  first, end, _ = text.partition("\n")
  if not end and first.startswith(('[{"', '{"')):
    return True  # One long line, of which only the beginning may be here.
  if first.strip() in ("[", "{", "[{"):
    return True
  try:
    value = untrusted.parse_json(first, whole=False)
  except errors.UserError:
    return False
  return isinstance(value, dict)
