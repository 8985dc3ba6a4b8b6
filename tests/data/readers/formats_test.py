"""Every format gives back the documents that another library wrote in it."""

import pathlib
import tempfile

import hypothesis
from hypothesis import strategies as st
import pytest

from tests.data import making
from transfer_gen.data import files

# Any characters but half of surrogate pairs, which UTF-8 cannot encode.
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# XML 1.0 cannot hold most control characters, and a parser makes \n of \r.
XML = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=20)
# A cell between tabs holds neither tabs nor line ends. That of the first column is not
# empty, or a table of one column would have blank lines, which are no rows.
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl"]), max_size=20)
TEXTS = {".tsv": CELL, ".tmx": XML}
FEW = hypothesis.settings(max_examples=20, deadline=None, derandomize=True)


def rows_of(texts):
  return st.lists(
      st.fixed_dictionaries({"en": texts, "de": texts}), min_size=1, max_size=5)


def read(name, data, paths=None, **options):
  """Writes one file, and returns the columns of the documents in it."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / name
    path.write_bytes(data)
    found = files.read(
        str(paths and path.parent / paths or path), files.Options(**options), "train")
    return [columns for _, columns in found.examples]


@pytest.mark.parametrize("ending", making.STRUCTURED)
@FEW
@hypothesis.given(data=st.data())
def test_rows_are_read_as_they_were_written(ending, data):
  rows = data.draw(rows_of(TEXTS.get(ending, ANY)))

  assert read(f"a{ending}", making.STRUCTURED[ending](rows)) == rows


@pytest.mark.parametrize("compression", [*making.COMPRESSED, ".zip"])
@pytest.mark.parametrize("ending", [".jsonl", ".tsv", ".parquet"])
@FEW
@hypothesis.given(data=st.data())
def test_compressed_rows_are_read_as_they_were_written(compression, ending, data):
  rows = data.draw(rows_of(TEXTS.get(ending, ANY)))
  written = making.STRUCTURED[ending](rows)

  if compression == ".zip":
    archive = making.zipped({f"folder/a{ending}": written})
    assert read("a.zip", archive) == rows
    assert read("a.zip", archive, f"a.zip/folder/a{ending}") == rows
  else:
    assert read(f"a{ending}{compression}",
                making.COMPRESSED[compression](written)) == rows


@FEW
@hypothesis.given(st.lists(st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20),
    min_size=1))
def test_lines_joined_again_are_the_text(lines):
  text = "\n".join(lines)
  hypothesis.assume(text.strip() and not text.startswith("\ufeff"))

  found = {unit: [row["text"] for row in read("a.txt", text.encode(), unit=unit)]
           for unit in ("line", "paragraph", "file")}

  assert {"".join(texts) for texts in found.values()} == {text}
  assert len(found["file"]) == 1 <= len(found["paragraph"]) <= len(found["line"])


@FEW
@hypothesis.given(rows_of(CELL))
def test_a_table_without_a_header_gets_the_names_of_the_config(rows):
  headless = making.tab_separated(rows).partition(b"\n")[2]

  assert read("a.tsv", headless, columns=tuple(rows[0])) == rows


def test_a_stream_of_arrow_is_read_like_a_file():
  rows = [{"text": "one"}, {"text": "two"}]

  assert read("a.arrow", making.arrow_stream(rows)) == rows


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".tmx", ".parquet", ".arrow"])
@pytest.mark.parametrize("name", ["a", "a.data", "a.2024-01.corpus"])
def test_a_file_with_an_unknown_ending_is_known_by_its_beginning(ending, name):
  rows = [{"en": f"text {i}", "de": f"Text {i}"} for i in range(3)]

  assert read(name, making.STRUCTURED[ending](rows)) == rows


def test_a_file_with_an_unknown_ending_may_be_compressed_or_plain_text():
  text = "ein Text\nnoch einer\n"

  assert read("a.de", text.encode(), unit="line") == [
      {"text": "ein Text\n"}, {"text": "noch einer\n"}]
  assert read("a", making.COMPRESSED[".xz"](text.encode()), unit="file") == [
      {"text": text}]


def test_json_lines_are_read_under_the_ending_of_json():
  rows = [{"mr": "a", "ref": "b"}, {"mr": "c", "ref": "d"}]

  assert read("a.json", making.json_lines(rows)) == rows
  assert read("a.json.gz", making.COMPRESSED[".gz"](making.json_lines(rows))) == rows
  assert read("a.json", making.json_array({"version": "1.1", "data": rows})) == rows
  assert read("a.json", making.json_lines(rows[:1])) == rows[:1]


def test_an_archive_gives_its_data_and_leaves_what_stands_beside():
  rows = [{"a": "1"}]
  data = making.json_lines(rows)

  assert read("a.zip", making.zipped({
      "b.jsonl": data, "a.jsonl": making.json_lines([{"a": "0"}]), "LICENSE": b"free",
      "__MACOSX/b.jsonl": b"\0"})) == [{"a": "0"}, *rows]
  assert read("a.zip", making.zipped({"x/b.jsonl": data, "y/b.jsonl": b"{"}),
              "a.zip/x/*.jsonl") == rows
  # Without a known ending, members are known by how they begin.
  assert read("a.zip", making.zipped({"corpus": data})) == rows


@pytest.mark.parametrize("unit, want", [
    (b"<tuv xml:lang='en-US'><seg>a <bpt i='1'>{\\b</bpt>b<hi>c</hi><ph/> d</seg></tuv>"
     b"<tuv xml:lang='de'><seg>e</seg></tuv>",
     {"en-US": "a bc d", "en": "a bc d", "de": "e"}),
    (b"<tuv lang='EN'><seg>a</seg></tuv><tuv lang='DE'><seg>e</seg></tuv>"
     b"<tuv lang='DE'><seg>f</seg></tuv>", {"EN": "a", "en": "a", "DE": ["e", "f"],
                                            "de": ["e", "f"]}),
    (b"<tuv xml:lang='pt-BR'><seg>a</seg></tuv>"
     b"<tuv xml:lang='pt-PT'><seg>b</seg></tuv>",
     {"pt-BR": "a", "pt-PT": "b"}),
])
def test_columns_of_a_translation_memory_are_its_languages(unit, want):
  text = b"<tmx version='1.4'><header/><body><tu>" + unit + b"</tu></body></tmx>"

  assert read("a.tmx", text) == [want]


@pytest.mark.parametrize("text, want, reason", [
    ("emma\nolivia\nava\n", "line", "3 lines"),
    ("A dog runs.\n\nA cat sleeps on the mat.\n\n", "line", "2 lines"),
    ("First Citizen:\nSpeak.\n\nAll:\nSpeak, speak.\n\n" * 9, "file",
     "18 parts between blank lines, 18 characters by median"),
    (("a story of one line and\n" * 10 + "\n") * 3, "paragraph",
     "3 parts between blank lines, 230 characters by median"),
    (("wrapped " * 8 + "\n") * 20 + "the end\n", "file", "wrapped at 64 characters"),
    ("x" * 63 + "\n", "line", "1 lines"),
    # A few blank lines among many lines end no paragraphs.
    ("\n\n".join("\n".join(f"name {i}" for i in range(50)) for _ in range(4)), "line",
     "200 lines"),
])
def test_the_text_decides_what_a_document_is(tmp_path, text, want, reason):
  (tmp_path / "a.txt").write_text(text)

  found = files.read(
      str(tmp_path / "a.txt"), files.Options(unit="auto"), "train")

  assert found.unit == want
  (note,) = found.notes
  assert "a.txt: read as " in note and reason in note
