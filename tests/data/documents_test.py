"""Tests for reading the user's own files: formats, filters, splits and errors."""

import gzip
import hashlib
import json
import unicodedata

import pytest

from tests import paths
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import document
from transfer_gen.data import documents

MULTI30K = paths.DATA / "multi30k"
E2E, SCITLDR = paths.DATA / "e2e", paths.DATA / "scitldr"


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Returns a function that writes files; `__` in an argument stands for a dot."""
  monkeypatch.chdir(tmp_path)

  def write_(**files):
    for name, data in files.items():
      path = tmp_path / name.replace("__", ".")
      path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return write_


def files(**fields):
  return config.Data(name="files", **({"train": "a.txt"} | fields))


def held(**fields):
  """Names files for validation and test, so that all of train stays in train."""
  return files(**({"validation": "v.txt", "test": "w.txt"} | fields))


def targets(found):
  return {split: [document.target for document in texts]
          for split, texts in found.items()}


def test_each_line_of_plain_text_becomes_a_document(write):
  write(
      a__txt="\ufeffone \t\r\ntwo\x00\n\n e\u0301 \u2028x\nlast", v__txt="v\n",
      w__txt="w")

  found, facts = documents.load(held(unit="line"))

  assert targets(found) == {
      "train": ["one", "two", " \u00e9 \u2028x", "last"], "validation": ["v"],
      "test": ["w"]}
  assert facts["splits"]["train"] == {
      "read": 5, "kept": 4, "dropped": {"empty": 1}, "chars": 15}


@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD", "NFKD"])
def test_text_is_normalized_to_the_configured_unicode_form(write, form):
  text = "e\u0301\u00e9 \ufb01 \u212b"
  write(a__txt=text, v__txt="v", w__txt="w")

  found, _ = documents.load(held(normalize=form))
  raw, _ = documents.load(held(normalize="none"))

  assert targets(found)["train"] == [unicodedata.normalize(form, text)]
  assert targets(raw)["train"] == [text]


def test_whole_files_keep_line_breaks_and_globs_are_sorted(write):
  write(b__txt="B\n\nb\n", a__txt="A", v__txt="v", w__txt="w")

  found, _ = documents.load(held(train="[ab].txt", unit="file"))

  assert targets(found)["train"] == ["A", "B\n\nb"]


def test_paragraphs_end_at_blank_lines(write):
  write(a__txt="\n\none\n two \n \t\n\nthree\r\n\r\nfour", v__txt="v", w__txt="w")

  found, _ = documents.load(held(unit="paragraph"))

  assert targets(found)["train"] == ["one\n two", "three", "four"]


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
def test_newline_keep_preserves_line_ends_in_the_text(write, unit):
  text = "one\t\r\n two \n\r\n\nthree\rx\x00\ny"
  write(a__txt=text, v__txt="v", w__txt="w")

  kept, _ = documents.load(held(newline="keep", unit=unit))
  folded, _ = documents.load(held(unit=unit))

  want = text.replace("\x00", "")
  if unit == "line":  # Blank lines are no documents.
    want = want.replace("\n\r\n\n", "\n")
  assert "".join(targets(kept)["train"]) == want
  assert not any(
      "\r" in target or target.endswith("\n") for target in targets(folded)["train"])
  assert len(kept["train"]) == {"line": 4, "paragraph": 2, "file": 1}[unit]


def test_newline_keep_preserves_line_ends_in_columns(write):
  write(a__jsonl='{"text": "a\\r\\nb\\n"}', v__jsonl='{"text": "v"}',
        w__jsonl='{"text": "w"}')

  found, _ = documents.load(held(
      train="a.jsonl", validation="v.jsonl", test="w.jsonl", newline="keep"))

  assert targets(found)["train"] == ["a\r\nb\n"]


@pytest.mark.parametrize("name, data", [
    ("a.jsonl", '{"q": "x, y", "a": "\\"z\\"", "n": 1}\n\n{"a": "2", "q": "1"}\n'),
    ("a.csv", 'n,q,a\n1,"x, y","""z"""\n2,1,2\n'),
    ("a.tsv", 'n\tq\ta\n1\tx, y\t"z"\n2\t1\t2\n'),
    ("a.csv.gz", gzip.compress(b'n,q,a\r\n1,"x, y","""z"""\r\n2,1,2\r\n', mtime=0)),
])
def test_named_columns_become_pairs(write, name, data):
  write(**{name.replace(".", "__"): data}, v__jsonl='{"q": "v", "a": "v"}',
        w__jsonl='{"q": "w", "a": "w"}')

  found, _ = documents.load(held(
      train=name, validation="v.jsonl", test="w.jsonl", input_field="q",
      target_field="a"))

  assert found["train"] == [
      documents.Document("x, y", '"z"'), documents.Document("1", "2")]


def test_parallel_files_are_paired_line_by_line(write):
  write(a__en="one\ntwo\n", a__de="eins\nzwei\n", v__en="v", v__de="v", w__en="w",
        w__de="w")

  found, _ = documents.load(held(
      train="a.en|a.de", validation="v.en|v.de", test="w.en|w.de"))

  assert found["train"] == [
      documents.Document("one", "eins"), documents.Document("two", "zwei")]


def test_missing_splits_do_not_depend_on_the_order_of_texts(write):
  lines = [f"line {i}" for i in range(1000)]
  write(a__txt="\n".join(lines), b__txt="\n".join(reversed(lines)), w__txt="w")

  found, _ = documents.load(files())
  other, _ = documents.load(files(train="b.txt"))
  with_test, _ = documents.load(files(test="w.txt"))

  assert {split: set(texts) for split, texts in targets(found).items()} == {
      split: set(texts) for split, texts in targets(other).items()}
  assert sorted(sum(targets(found).values(), [])) == sorted(lines)
  for split in ("validation", "test"):
    # A tenth of 1000 lines, within three standard deviations (9.5 each).
    assert 70 < len(found[split]) < 130
  assert with_test["validation"] == found["validation"]
  assert len(with_test["train"]) == len(found["train"]) + len(found["test"])


def test_pairs_with_the_same_input_stay_in_one_split(write):
  rows = [{"q": f"question {i % 50}", "a": f"answer {i}"} for i in range(200)]
  write(a__jsonl="\n".join(map(json.dumps, rows)))

  found, _ = documents.load(files(
      train="a.jsonl", input_field="q", target_field="a"))

  inputs = [{document.input for document in texts} for texts in found.values()]
  assert sum(map(len, inputs)) == len(set.union(*inputs)) == 50


def test_held_out_texts_are_dropped_from_the_training_split(write):
  write(a__txt="one\nin  test\nin validation\nin both\none", w__txt="in test\nin both",
        v__txt="in validation\nin both\nv")

  found, facts = documents.load(held())

  assert targets(found) == {
      "train": ["one", "one"], "validation": ["in validation", "v"],
      "test": ["in test", "in both"]}
  assert facts["splits"]["train"]["dropped"] == {"duplicate": 3}
  assert facts["splits"]["validation"]["dropped"] == {"duplicate": 1}


def test_length_filters_count_what_they_drop(write):
  write(a__txt="a\nabcd\nabcdefgh\nabc\n\n", v__txt="vvvv", w__txt="wwww")

  found, facts = documents.load(held(min_chars=3, max_chars=5))

  assert targets(found)["train"] == ["abcd", "abc"]
  assert facts["splits"]["train"]["dropped"] == {
      "too_short": 1, "too_long": 1, "empty": 1}


def test_documents_read_once_serve_several_fractions(write):
  write(a__txt="\n".join(f"line {i}" for i in range(200)))

  read, facts = documents.read_filtered(files())

  for fraction in (0.1, 1.0, 0.5):
    assert documents.take_fraction(
        read, facts, files(fraction=fraction)) == documents.load(
            files(fraction=fraction))


def test_fractions_are_nested_and_shrink_only_the_training_split(write):
  write(a__txt="\n".join(f"line {i}" for i in range(1000)))
  load = lambda **fields: documents.load(files(**fields))

  whole, facts = load()
  found = {fraction: load(fraction=fraction) for fraction in (0.1, 0.3)}
  other_seed, _ = load(fraction=0.1, seed=1)
  again, again_facts = load(fraction=0.1)

  small, large = (
      set(targets(found[fraction][0])["train"]) for fraction in (0.1, 0.3))
  total = len(whole["train"])
  # -(-a // b) rounds up, so that no fraction is empty.
  assert (len(small), len(large)) == (-(-total // 10), -(-total * 3 // 10))
  assert small < large < set(targets(whole)["train"])
  assert again == found[0.1][0] and again_facts == found[0.1][1]
  assert set(targets(other_seed)["train"]) != small
  for fraction, (splits, _) in found.items():
    assert splits["test"] == whole["test"], fraction
    assert splits["validation"] == whole["validation"], fraction
  assert found[0.1][1]["fingerprint"] != facts["fingerprint"]


def test_the_fingerprint_is_the_sha256_of_lengths_and_texts(write):
  write(a__txt="one", v__txt="vé", w__txt="w")

  _, facts = documents.load(held())

  want = hashlib.sha256()
  for split, text in (("train", "one"), ("validation", "vé"), ("test", "w")):
    data = text.encode()
    want.update(split.encode() + b"\0" + bytes(8) + len(data).to_bytes(8, "big") + data)
  assert facts["fingerprint"] == want.hexdigest()


def test_the_fingerprint_differs_with_references_and_their_order():
  of = lambda *texts: document.fingerprint(
      {"test": [documents.Document("q", texts[0], texts[1:])]})

  assert len({of("a"), of("a", "b"), of("a", "b", "c"), of("a", "c", "b")}) == 4


def refusals():
  """Lists (id, files, config fields, pattern of the message)."""
  row = {"input_field": "q", "target_field": "a", "train": "a.jsonl"}
  return [
      ("empty file", {"a.txt": ""}, {}, r"a\.txt: no documents"),
      ("blank file", {"a.txt": "\n \n"}, {}, r"a\.txt: no documents"),
      ("not UTF-8", {"a.txt": b"\xef\xbb\xbfok\nno \xff\n"}, {},
       r"a\.txt:2: invalid UTF-8 \(byte 0xff\)"),
      ("not UTF-8 in the second file", {"a.txt": "ok", "b.txt": b"1\n2\n\xc3("},
       {"train": "a.txt, b.txt"}, r"b\.txt:3: invalid UTF-8"),
      ("no file", {}, {"train": "none.txt"}, "no file none.txt"),
      ("no match", {}, {"train": "no*.txt"}, r"no file matches no\*\.txt"),
      ("unknown suffix", {"a.xml": "<a/>"}, {"train": "a.xml"},
       r"not look like text; .*\.jsonl.*\.csv"),
      ("broken gzip", {"a.txt.gz": b"no gzip"}, {"train": "a.txt.gz"}, "gzip"),
      ("bad JSON", {"a.jsonl": '{"q": "1", "a": "2"}\n{"q": '}, row,
       r"a\.jsonl:2: not JSON"),
      ("JSON of another form", {"a.jsonl": "[1]"}, row, r"a\.jsonl:1: a list"),
      ("missing column", {"a.jsonl": '{"question": "1", "a": "2"}'}, row,
       r"a\.jsonl:1: there is no column `q`, only question, a"),
      ("no text", {"a.jsonl": '{"q": 3, "a": "2"}'}, row,
       r"a\.jsonl:1: column `q` holds a int"),
      ("half a character", {"a.jsonl": '{"q": "\\ud800", "a": "2"}'}, row,
       "surrogate"),
      ("ragged row", {"a.csv": "q,a\n1,2\n3\n"}, row | {"train": "a.csv"},
       r"a\.csv:3: 1 cells under 2 columns \(q, a\)"),
      ("open quote", {"a.csv": 'q,a\n1,"2\n'}, row | {"train": "a.csv"},
       r"a\.csv:2: not a row"),
      ("columns of plain text", {"a.txt": "x"}, {"input_field": "q"},
       r"a\.txt:1: there is no column `q`, only text"),
      ("unequal lines", {"a.en": "1\n2\n", "a.de": "1\n"}, {"train": "a.en|a.de"},
       r"a\.en has 2 lines and a\.de has 1"),
      ("three files", {"a.en": "1", "a.de": "1"}, {"train": "a.en|a.de|a.en"},
       "must name two files"),
      ("empty split", {"a.txt": "one\ntwo"}, {"min_chars": 4},
       r"no document is left in .* 2 too_short|no document is left in"),
  ]


@pytest.mark.parametrize(
    "contents, fields, message", [case[1:] for case in refusals()],
    ids=[case[0] for case in refusals()])
def test_an_invalid_file_is_refused_with_its_name_and_line(
    write, contents, fields, message):
  write(**{name.replace(".", "__"): data for name, data in contents.items()})

  with pytest.raises(errors.UserError, match=message) as caught:
    documents.load(files(**fields))

  assert "\n" not in str(caught.value)


def test_an_invalid_config_is_refused_with_every_wrong_field():
  with pytest.raises(errors.UserError) as caught:
    documents.load(config.Data(
        normalize="nfc", fraction=1.5, length=1, target_field="", newline="kept",
        packing="split", unit="lines", split="random", too_long="keep", max_test=-1))

  for field in ("normalize is 'nfc'", "packing is 'split'", "newline is 'kept'",
                "unit is 'lines'", "split is 'random'", "too_long is 'keep'",
                "max_test is -1", "fraction is 1.5", "length is 1", "target_field is"):
    assert f"data.{field}" in str(caught.value)


def test_all_fields_that_do_not_go_together_are_refused_at_once():
  with pytest.raises(errors.UserError) as caught:
    documents.load(config.Data(
        name="wikipedia", train="a.txt", min_chars=9, max_chars=3, buckets=(640,),
        columns="a,,b"))

  for field in ("name=", "train", "max_chars=3", "buckets=", "columns="):
    assert f"data.{field}" in str(caught.value)


def test_a_fraction_without_a_document_is_refused_and_the_least_one_holds_one(write):
  write(a__txt="\n".join(f"line {i}" for i in range(100)))
  whole, _ = documents.load(files())
  count = len(whole["train"])

  with pytest.raises(errors.UserError, match=f"0.001 of {count} training documents is"):
    documents.load(files(fraction=0.001))
  least, _ = documents.load(files(fraction=1 / count))

  assert len(least["train"]) == 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_its_range_is_refused(write, fraction):
  write(a__txt="x")

  with pytest.raises(errors.UserError, match="data.fraction"):
    documents.load(files(fraction=fraction))


@paths.needs(MULTI30K)
def test_multi30k_is_read_completely():
  splits = {
      split: f"{MULTI30K}/{name}.en.gz|{MULTI30K}/{name}.de.gz" for split, name in (
          ("train", "train"), ("validation", "val"), ("test", "test_2016_flickr"))}

  found, facts = documents.load(files(**splits))

  # The published sizes of Multi30k.
  assert [counts["read"] for counts in facts["splits"].values()] == [29000, 1014, 1000]
  assert found["train"][0].input.startswith("Two young, White males are outside")
  assert found["train"][0].target.startswith("Zwei junge weiße Männer")


@paths.needs(E2E)
def test_e2e_keeps_all_sentences_of_an_input_as_references():
  found, facts = documents.load(config.Data(
      name="files", train=f"{E2E}/train.jsonl.gz", test=f"{E2E}/validation.jsonl.gz",
      input_field="mr", target_field="ref"))

  # The published sizes: 42,061 and 4,672 pairs, of which the second have 547 inputs.
  assert facts["splits"]["test"]["read"] == 4672
  inputs = [document.input for document in found["test"]]
  assert len(inputs) == len(set(inputs)) == 547
  with gzip.open(E2E / "validation.jsonl.gz", "rt") as lines:
    rows = [json.loads(line) for line in lines]
  # A sentence that is there twice is one reference.
  assert sum(len(document.answers) for document in found["test"]) == len(
      {(row["mr"], row["ref"]) for row in rows})
  assert len(found["train"]) + facts["splits"]["validation"]["read"] == 42061


@paths.needs(SCITLDR)
def test_scitldr_joins_sentences_and_keeps_its_summaries_as_references():
  found, _ = documents.load(config.Data(
      name="files", train=f"{SCITLDR}/train.jsonl.gz", test=f"{SCITLDR}/dev.jsonl.gz",
      input_field="source", target_field="target"))

  assert 610 < len(found["test"]) <= 619
  assert max(len(document.references) for document in found["test"]) > 1
  assert all(". " in document.input for document in found["test"][:20])
