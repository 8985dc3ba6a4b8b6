"""Tests for reading character vocabularies, valid and damaged ones."""

import json
import unicodedata

from etils import epath
import pytest

from transfer_gen import errors
from transfer_gen.maps import character_table


def write(folder, text):
  path = epath.Path(folder / "vocab.json")
  path.write_bytes(text.encode("utf-8"))
  return path


def read(folder, entries, size, **kwargs):
  text = entries if isinstance(entries, str) else json.dumps(entries)
  return character_table.read(write(folder, text), size, **kwargs)


def test_a_valid_table_is_read_with_line_ends_as_characters(tmp_path):
  rows, named, notes = read(
      tmp_path, {"\r": 0, "é": 3, "\n": 1, "<s>": 4, "\u2028": 2}, 6,
      special=("<s>",), empty=(5,))

  assert rows == ["\r", "\n", "\u2028", "é", None, None]
  assert (named, notes) == ({"<s>": 4}, ())


# Damage of several kinds, such as UTF-8 text that was decoded as Latin-1 ("Ã©").
DAMAGED = ('{"a": 0, "Ã©": 1, "b": 2, "b": 3, "c": 4, "d": 4, "e": 9, "xy": 5,'
           '"\\ud83d": 6}')


def test_every_damaged_or_duplicate_entry_is_reported(tmp_path):
  with pytest.raises(errors.UserError) as error:
    read(tmp_path, DAMAGED, 7)

  for line in ("'Ã©' of row 1 is no character; before it was damaged, it was 'é'",
               "'b' stands in rows 2 and 3", "row 4 is 'c' and 'd'",
               "'e': 9 is no row of 7", "'xy' of row 5 is no character",
               r"'\ud83d' of row 6 is no character", "row 2 has no character",
               "source.vocabulary=repair"):
    assert line in str(error.value)
  assert "'a'" not in str(error.value)


def test_repair_restores_only_unambiguous_entries(tmp_path):
  rows, _, notes = read(tmp_path, DAMAGED, 7, repair=True)

  assert rows == ["a", "é", None, "b", "d", None, None]
  # One for each damage, and one for each letter that is left: "c" and "e".
  assert len(notes) == 11 and notes[-2:] == ("'c' has no row", "'e' has no row")


def _decoded_alone(character, encoding):
  """What a program makes of a character whose UTF-8 it reads byte by byte."""
  # As browsers do: what the code page leaves open is a control character.
  return "".join(bytes([byte]).decode(encoding) if byte not in (
      0x81, 0x8d, 0x8f, 0x90, 0x9d) else chr(byte) for byte in character.encode())


LETTERS = "éàÀÍïñßŸœ”“’‘–—…€日жö🙂\n\t"


@pytest.mark.parametrize("damage_fn", [
    lambda c: _decoded_alone(c, "latin-1"), lambda c: _decoded_alone(c, "cp1252"),
    lambda c: "".join(_decoded_alone(x, "cp1252") for x in _decoded_alone(c, "cp1252")),
    lambda c: c.encode().decode("ascii", "surrogateescape"),
    lambda c: f"&#{ord(c)};", lambda c: f"\ufeff{c}",
    lambda c: unicodedata.normalize("NFD", c)],
    ids=["latin_1", "code_page", "twice", "surrogates", "entity", "mark", "accents"])
def test_every_letter_has_its_row_again_whatever_form_it_was_written_in(
    damage_fn, tmp_path):
  rows, _, _ = read(
      tmp_path, {damage_fn(c): i for i, c in enumerate(LETTERS)}, len(LETTERS),
      repair=True)

  assert rows == list(LETTERS)


def test_escapes_are_the_characters_that_they_stand_for(tmp_path):
  rows, _, _ = read(
      tmp_path, {r"\n": 0, r"\t": 1, "&amp;": 2, "&lt;": 3}, 4, repair=True)

  assert rows == ["\n", "\t", "&", "<"]


@pytest.mark.parametrize("entries", [
    {"a": 0, "b": 1, "c": 1}, {"a": 0, "c": 1, "b": 7}, {"a": 0, "c": 1, "Ã©": 1}])
def test_the_only_letter_without_a_row_gets_the_only_row_without_a_letter(
    entries, tmp_path):
  rows, _, notes = read(tmp_path, entries, 3, repair=True)

  assert rows[:2] == ["a", "c"] and rows[2] in ("b", "é")
  assert f"{rows[2]!r} is row 2: no other was left for it" in notes


def test_an_undamaged_entry_wins_over_a_repaired_one(tmp_path):
  for entries in ({"é": 0, "Ã©": 1}, {"Ã©": 1, "é": 0}):
    rows, _, _ = read(tmp_path, entries, 2, repair=True)
    assert rows == ["é", None]


@pytest.mark.parametrize("text", [
    "[]", "{", "1", '{"a": "0"}', '{"a": true}', '{"a": {"b": 1}}', '[["a", 0]]'])
def test_json_that_is_not_a_vocabulary_is_refused(tmp_path, text):
  with pytest.raises(errors.UserError, match="vocab.json"):
    read(tmp_path, text, 1)
