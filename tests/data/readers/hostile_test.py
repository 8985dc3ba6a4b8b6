"""Damaged or hostile files: one clear error, or the right rows, never a crash."""

import decimal
import gzip
import io
import random
import struct
import zipfile

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from tests.data import making
from transfer_gen import errors
from transfer_gen.data import files

ROWS = [{"en": f"text {i} of many", "de": f"Text {i} von vielen"} for i in range(50)]
LINES = making.json_lines(ROWS)


def forms():
  """Returns one file of each form that a checksum or a structure guards, by name."""
  found = {f"a.jsonl{ending}": compress(LINES)
           for ending, compress in making.COMPRESSED.items()}
  found["a.zip"] = making.zipped({"a.jsonl": LINES, "b.jsonl": LINES})
  for ending in (".parquet", ".arrow", ".feather", ".tmx", ".json"):
    found[f"a{ending}"] = making.STRUCTURED[ending](ROWS)
  return found


FORMS = forms()
CHECKED = [name for name in FORMS if name.endswith((".gz", ".bz2", ".xz", ".zip"))]


def read(folder, name, data, paths=""):
  (folder / name).write_bytes(data)
  found = files.read(str(folder / (paths or name)), files.Options(), "train")
  return [columns for _, columns in found.examples]


def refused(folder, name, data, match, paths=""):
  with pytest.raises(errors.UserError, match=match) as caught:
    read(folder, name, data, paths)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
  assert name in str(caught.value)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, name, share):
  data = FORMS[name]

  refused(tmp_path, name, data[:int(share * len(data))], "no whole|not JSON|not an obj")


@pytest.mark.parametrize("name", CHECKED)
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, name):
  data, draw = FORMS[name], random.Random(0)
  right = read(tmp_path, name, data)
  noticed = 0

  for position in draw.sample(range(8 * len(data)), 150):
    damaged = bytearray(data)
    damaged[position // 8] ^= 1 << position % 8
    try:
      assert read(tmp_path, name, bytes(damaged)) == right, position
    except errors.UserError as error:
      assert "\n" not in str(error)
      noticed += 1

  assert noticed > 100  # Names, dates and other notes may change without harm.


@pytest.mark.parametrize("name", [".parquet", ".arrow", ".feather", ".tmx", ".json"])
def test_a_flipped_bit_in_a_table_never_crashes(tmp_path, name):
  """These formats have no checksums, so that changed texts cannot be noticed."""
  data, draw = FORMS[f"a{name}"], random.Random(0)
  noticed = 0

  for position in draw.sample(range(8 * len(data)), 150):
    damaged = bytearray(data)
    damaged[position // 8] ^= 1 << position % 8
    try:
      read(tmp_path, f"a{name}", bytes(damaged))
    except errors.UserError as error:
      assert "\n" not in str(error)
      noticed += 1

  assert noticed


@pytest.mark.parametrize("ending", making.COMPRESSED)
def test_a_file_that_inflates_without_end_is_refused_before_memory_is_full(
    tmp_path, ending):
  bomb = making.COMPRESSED[ending](bytes(2**25))

  refused(tmp_path, f"a.txt{ending}", bomb, "bytes inflate to .* or more")


@pytest.mark.parametrize("ending", making.COMPRESSED)
def test_a_file_of_endless_lines_is_refused_before_memory_is_full(tmp_path, ending):
  bomb = making.COMPRESSED[ending](b"a\n" * 2**20)

  refused(tmp_path, f"a.txt{ending}", bomb, "lines, objects or rows, and at most")


def test_a_table_whose_rows_share_one_text_is_refused_before_they_are_made(tmp_path):
  shared = pa.DictionaryArray.from_arrays(
      np.zeros(2**12, np.int32), ["x" * 2**14]).cast(pa.string())
  for ending, write in (("parquet", parquet.write_table),):
    file = io.BytesIO()
    write(pa.table({"text": shared}), file)
    refused(tmp_path, f"a.{ending}", file.getvalue(), "inflate to .* or more")


def test_members_that_share_their_bytes_are_counted_together(tmp_path):
  data = bytearray(making.zipped({"a.txt": b"ab" * 2**20, "b.txt": b"cd" * 2**20}))
  many = making.zipped({f"{i}.txt": bytes(2**20) for i in range(40)})

  assert read(tmp_path, "a.zip", bytes(data))
  refused(tmp_path, "b.zip", many, "bytes inflate to 41,943,040 or more")


def test_an_archive_that_claims_to_inflate_without_end_is_refused(tmp_path):
  refused(tmp_path, "a.zip", making.zipped({"a.txt": bytes(2**25)}),
          "bytes inflate to 33,554,432 or more")


@pytest.mark.parametrize("name", [
    "../a.jsonl", "/etc/a.jsonl", "x/../../a.jsonl", "..\\a.jsonl", "\\a.jsonl"])
def test_a_member_that_leads_out_of_its_archive_is_refused(tmp_path, name):
  refused(tmp_path, "a.zip", making.zipped({name: LINES}), "would lie outside")


def test_an_archive_is_read_in_memory_and_leaves_no_file(tmp_path):
  read(tmp_path, "a.zip", making.zipped({"x/a.jsonl": LINES}))

  assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_an_encrypted_or_doubled_member_is_refused(tmp_path):
  data = bytearray(making.zipped({"a.jsonl": LINES}))
  data[data.rindex(b"PK\x01\x02") + 8] |= 1  # The flag of encryption.
  refused(tmp_path, "a.zip", bytes(data), "is encrypted")
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning):
    for _ in range(2):
      archive.writestr("a.jsonl", LINES)
  refused(tmp_path, "a.zip", file.getvalue(), "two members 'a.jsonl'")


def test_a_missing_member_is_named_beside_those_that_are_there(tmp_path):
  refused(tmp_path, "a.zip", FORMS["a.zip"],
          r"no member matches c\.jsonl\. It holds a\.jsonl, b\.jsonl", "a.zip/c.jsonl")


@pytest.mark.parametrize("declared", [
    '<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">',
    '<!ENTITY a SYSTEM "file:///etc/passwd">', '<!ENTITY a SYSTEM "http://localhost/">'])
def test_entities_are_refused_in_a_translation_memory(tmp_path, declared):
  text = (f"<!DOCTYPE tmx [{declared}]><tmx><body><tu><tuv xml:lang='en'>"
          "<seg>&a;</seg></tuv></tu></body></tmx>")

  refused(tmp_path, "a.tmx", text.encode(), "EntitiesForbidden")


@pytest.mark.parametrize("data", [
    b"%PDF-1.7\n\0\1\2", b"\x89PNG\r\n\x1a\n\0", b"<html><body>text</body></html>",
    b"\x80\x04\x95pickled\0", b"\0" * 100])
@pytest.mark.parametrize("name", ["a", "a.data"])
def test_a_file_that_is_no_text_is_refused(tmp_path, name, data):
  refused(tmp_path, name, data, "does not look like text; the known endings are .txt")


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path):
  refused(tmp_path, "a.de", "eins\nzwölf\n".encode("latin1"), r"a\.de:2: invalid UTF-8")


@pytest.mark.parametrize("data, message", [
    (b"[1, 2]", r"\[1\]: a int, not an object"), (b'["a"', "not JSON"),
    (b"[" * 100_000, "not JSON"), (b'{"a": [', "not JSON"),
    (b'{"a": 1}\n{"b"', r"a\.json:2: not JSON"), (b"", "no documents")])
def test_json_of_another_form_is_refused(tmp_path, data, message):
  refused(tmp_path, "a.json", data, message)


def test_columns_with_one_name_are_refused(tmp_path):
  refused(tmp_path, "a.tsv", b"a\ta\nb\tc\n", r"2 columns, .* named 'a'.*data\.columns")


def test_a_gzip_with_an_honest_ratio_is_read(tmp_path):
  data = making.json_lines([{"a": "the same line"}] * 20_000)

  assert len(read(tmp_path, "a.jsonl.gz", gzip.compress(data))) == 20_000


_COUNT, _LONG = 20_000, "x" * 20_000
_ONCE = pa.DictionaryArray.from_arrays(pa.array([0] * _COUNT, pa.int32()), [_LONG])
_EACH = pa.array(range(_COUNT + 1), pa.int32())
_VIEW = struct.pack("<i4sii", len(_LONG), _LONG[:4].encode(), 0, 0)
# Arrays that hold one text, and of which each row is made of it.
SHARED = {
    "dictionary": _ONCE,
    "struct": pa.StructArray.from_arrays([_ONCE], ["en"]),
    "list": pa.ListArray.from_arrays(_EACH, _ONCE),
    "map": pa.MapArray.from_arrays(_EACH, ["k"] * _COUNT, _ONCE),
    "lists in a dictionary": pa.DictionaryArray.from_arrays(
        pa.array([0] * _COUNT, pa.int32()), pa.array([["a"] * 10_000])),
    "runs": pa.RunEndEncodedArray.from_arrays(
        pa.array([_COUNT], pa.int32()), pa.array([_LONG])),
    "views": pa.Array.from_buffers(pa.string_view(), _COUNT, [
        None, pa.py_buffer(_VIEW * _COUNT), pa.py_buffer(_LONG.encode())]),
    "views of a list": pa.ListViewArray.from_arrays(
        pa.array([0] * _COUNT, pa.int32()), pa.array([10_000] * _COUNT, pa.int32()),
        pa.array(["a"] * 10_000)),
    "union": pa.UnionArray.from_dense(
        pa.array([0] * _COUNT, pa.int8()), pa.array([0] * _COUNT, pa.int32()),
        [pa.array([_LONG])]),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_text_that_an_arrow_file_stores_once_for_many_rows_is_counted_for_each(
    kind, tmp_path):
  batch = pa.record_batch([SHARED[kind]], names=["text"])
  buffer = io.BytesIO()
  with pa.ipc.new_file(buffer, batch.schema) as writer:
    writer.write_batch(batch)

  with pytest.raises(errors.UserError, match="no text shrinks so far|no text has"):
    read(tmp_path, "a.arrow", buffer.getvalue())


def test_columns_of_many_types_are_read(tmp_path):
  columns = {
      "text": pa.array(["a", None, "ccc"], pa.string_view()),
      "kind": pa.array(["x", None, "x"]).dictionary_encode(),
      "runs": pa.RunEndEncodedArray.from_arrays(
          pa.array([2, 3], pa.int32()), ["p", "q"]),
      "list": pa.array([["a", "b"], None, []]), "no": pa.nulls(3),
      "pair": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
      "more": pa.array([{"a": "b"}, None, {"a": None}]),
      "price": pa.array([decimal.Decimal("1.5")] * 3), "yes": pa.array([True] * 3),
      "large": pa.array([b"1", b"22", None], pa.large_binary())}
  batch = pa.record_batch(list(columns.values()), names=list(columns))
  buffer = io.BytesIO()
  with pa.ipc.new_file(buffer, batch.schema) as writer:
    writer.write_batch(batch.slice(1))
    writer.write_batch(batch.slice(0, 1))

  assert read(tmp_path, "a.arrow", buffer.getvalue()) == [
      *batch.slice(1).to_pylist(), *batch.slice(0, 1).to_pylist()]


def test_a_translation_memory_of_empty_units_is_refused_before_they_are_made(tmp_path):
  data = gzip.compress(b"<tmx><body>" + b"<tu/>" * 300_000 + b"</body></tmx>")

  with pytest.raises(errors.UserError, match="lines, objects or rows") as refused:
    read(tmp_path, "a.tmx.gz", data)
  assert "no whole TMX" not in str(refused.value)
