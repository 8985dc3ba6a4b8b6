r"""Reads a vocabulary of characters: a JSON object from each to its row of a table.

A line end is a character like others: "\r" stays "\r".
"""

from collections.abc import Collection
import html
from typing import Any
import unicodedata

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted
from transfer_gen.formats import raw

_TIMES = 3  # How often a text may have been decoded wrongly.
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\", r"\"": '"', r"\'": "'"}

def read(
    path: epath.Path, size: int, special: Collection[str] = (),
    repair: bool = False, empty: Collection[int] = (),
) -> tuple[list[str | None], dict[str, int], tuple[str, ...]]:
  """Reads a vocabulary, and every entry of it that cannot be right.

  An entry is damaged if it is not one character, or no row of the table; doubled if
  its character or its row stands in another one as well; a row may have none. Repaired,
  a character that was written in another form (see `_mended`) is itself again, sound
  entries go before repaired ones and later before earlier ones. If then a single
  character has no row and a single row no character, they belong together; any other
  row that is left has no text.

  Args:
    path: The vocabulary's file.
    size: Number of rows of the table.
    special: Entries that are names and not characters. Default: none.
    repair: Whether to repair damaged entries or to refuse them. Default: refuse.
    empty: Rows that need no entry. Default: none.

  Returns:
    The character of each row, or None; rows by name of `special`; and a sentence for
    each repair.

  Raises:
    errors.UserError: If the file holds no JSON object; or if entries are damaged or
      doubled and must not be repaired, in which case the message lists them all.
  """
  with raw.malformed(path, "vocabulary"):
    if path.stat().length > 2**24:
      raise errors.UserError("it is larger than 16 MiB.")
    # A list of pairs keeps doubled keys, of which a dict would drop all but the last; a
    # list in the JSON itself has no tuples.
    pairs = untrusted.read_json(path, pairs=list, whole=False)
    if not isinstance(pairs, list) or not all(isinstance(p, tuple) for p in pairs):
      raise errors.UserError("its JSON is no object from characters to rows.")
  rows, named, wrong = _sorted_out(pairs, size, special)
  wrong += [f"row {row} has no character" for row in range(size)
            if rows[row] is None and row not in empty and row not in named.values()]
  if wrong and not repair:
    raise errors.UserError(
        f"{path}: {len(wrong)} entries are damaged or doubled:\n  "
        + "\n  ".join(wrong) + "\nSet source.vocabulary=repair to leave rows that"
        " nobody can tell without text, or mend the file.")
  return rows, named, (*wrong, *_last_one(pairs, rows, named, empty))


def _last_one(pairs, rows: list[str | None], named, empty) -> tuple[str, ...]:
  """Gives the only row that is left to the only character that is, and says so."""
  texts = dict.fromkeys(
      text if _is_character(text) else _mended(text) for text, _ in pairs
      if text not in named)
  characters = [text for text in texts if text is not None and text not in rows]
  left = [row for row, text in enumerate(rows)
          if text is None and row not in empty and row not in named.values()]
  if len(characters) != 1 or len(left) != 1:
    return tuple(f"{text!r} has no row" for text in characters)
  rows[left[0]] = characters[0]
  return (f"{characters[0]!r} is row {left[0]}: no other was left for it",)


def _sorted_out(pairs, size: int, special: Collection[str]):
  """Returns the character of each row, rows of names, and what was wrong."""
  sound, mended, named, wrong = [], [], {}, []
  for text, row in pairs:
    if type(row) is not int or not 0 <= row < size:
      wrong.append(f"{text!r}: {_shown(row)} is no row of {size}")
    elif text in special:
      if text in named:
        wrong.append(f"{text!r} stands in rows {named[text]} and {row}")
      named[text] = row
    elif _is_character(text):
      sound.append((text, row))
    else:
      character = _mended(text)
      hint = f"; before it was damaged, it was {character!r}" if character else ""
      wrong.append(f"{text!r} of row {row} is no character{hint}")
      mended += [(character, row)] if character else []
  rows: list[str | None] = [None] * size
  # Later entries replace earlier ones, so what is sound wins over what is a guess.
  for character, row in (*mended, *sound):
    if character in rows and rows.index(character) != row:
      wrong.append(f"{character!r} stands in rows {rows.index(character)} and {row}")
      rows[rows.index(character)] = None
    if rows[row] not in (None, character):
      wrong.append(f"row {row} is {rows[row]!r} and {character!r}")
    rows[row] = character
  for name, row in named.items():
    if rows[row] is not None:
      wrong.append(f"row {row} is {rows[row]!r} and {name!r}")
      rows[row] = None
  return rows, named, wrong


def _is_character(text: str) -> bool:
  # A lone surrogate has no UTF-8, so a tokenizer could not write it.
  return len(text) == 1 and not "\ud800" <= text <= "\udfff"


def _mended(text: str) -> str | None:
  """Returns the one character that a text was before programs changed it, or None.

  They write a character as two (e and an accent), as an escape or an entity of HTML,
  put a mark of the byte order before it, keep its bytes as halves of surrogates, or
  decode its UTF-8 byte by byte, some of them twice.
  """
  text = unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
  if _is_character(text):
    return text
  plain = _ESCAPES.get(text) or html.unescape(text)
  if _is_character(plain):
    return plain
  for _ in range(_TIMES):
    try:
      text = _bytes(text).decode("utf-8")
    except UnicodeError:
      return None
    if _is_character(text):
      return text
  return None


def _bytes(text: str) -> bytes:
  """Returns the bytes that a text is if each was decoded alone."""
  found = b""
  for letter in text:
    # A byte that is none in UTF-8 is half of a surrogate in Python.
    if "\udc80" <= letter <= "\udcff":
      found += letter.encode("utf-8", "surrogateescape")
      continue
    # Code page 1252 differs from Latin-1 in 0x80 to 0x9f, and has gaps there, which
    # programs fill with Latin-1: a quotation mark comes out as a mixture of both.
    try:
      found += letter.encode("cp1252")
    except UnicodeError:
      found += letter.encode("latin-1")
  return found


def _shown(value: Any) -> str:
  return repr(value)[:40]
