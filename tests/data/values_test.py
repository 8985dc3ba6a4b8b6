"""Texts from columns: nested ones, lists, several answers, and what is missing."""

import json

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import reading
from transfer_gen.data import values

Document = documents.Document


def sides(rows, names, drop_empty=False):
  examples = [(f"a:{number}", row) for number, row in enumerate(rows, 1)]
  return [(found.input, found.answers) for found in values.sides(
      examples, names, str.strip, drop_empty)]


@pytest.mark.parametrize("row, names, want", [
    ({"translation": {"en": "a", "de": "b"}}, ("translation.en", "translation.de"),
     ("a", ("b",))),
    # A column whose own name has dots comes before a nested one.
    ({"a.b": "1", "a": {"b": "2"}, "t": "c"}, ("a.b", "t"), ("1", ("c",))),
    ({"q": "a", "answers": {"text": ["b", "c"]}}, ("q", "answers.text"),
     ("a", ("b", "c"))),
    ({"q": "a", "answers": [{"text": "b"}, {"text": "c"}]}, ("q", "answers.text"),
     ("a", ("b", "c"))),
    ({"source": ["a.", "b."], "target": ["c", " ", "d"]}, ("source", "target"),
     ("a. b.", ("c", "d"))),
    ({"text": ["a.", "b."]}, ("", "text"), ("", ("a. b.",))),
    ({"t": {"language": ["de", "en", "de"], "translation": ["b", "a", "c"]}},
     ("t.en", "t.de"), ("a", ("b", "c"))),
    ({"language": [b"de", b"en"], "translation": [b"b", b"a"]}, ("en", "de"),
     ("a", ("b",))),
    ({"language": "en", "translation": "a"}, ("translation", "language"),
     ("a", ("en",))),
    ({"q": b"\xc3\xa9", "a": np.array([b"b", b"c"], object)}, ("q", "a"),
     ("é", ("b", "c"))),
])
def test_texts_are_taken_from_columns_of_any_form(row, names, want):
  assert sides([row], names) == [want]


def test_documents_that_lack_a_column_are_listed_with_their_lines():
  rows = [{"t": {"en": "a", "de": "b"}}] * 3 + [{"t": {"en": "a"}}] * 7

  with pytest.raises(errors.UserError) as caught:
    sides(rows, ("t.en", "t.de"))

  assert str(caught.value).startswith(
      "a:4: there is no column `t.de`, only t.en. Nearest: t.en. 7 of 10 documents lack"
      " it: a:4, a:5, a:6, a:7, a:8 and 2 more. Set data.drop_empty to leave them out.")
  # Where that is asked for, they are empty, and dropped and counted as such.
  assert sides(rows, ("t.en", "t.de"), drop_empty=True)[2:4] == [
      ("a", ("b",)), ("a", ("",))]


def test_a_column_that_all_lack_is_refused_with_the_nearest_name():
  with pytest.raises(errors.UserError, match=(
      r"a:1: there is no column `fr_FR`, only en-US, fr-FR\. Nearest: fr-FR\. Set")):
    sides([{"en-US": "a", "fr-FR": "b"}], ("en-US", "fr_FR"), drop_empty=True)


def test_pairs_with_one_empty_side_are_listed_with_their_lines():
  rows = [{"q": "a", "a": "b"}, {"q": " ", "a": "b"}, {"q": "a", "a": None},
          {"q": "", "a": ""}, {"q": "a", "a": []}]

  with pytest.raises(errors.UserError) as caught:
    sides(rows, ("q", "a"))

  assert str(caught.value) == (
      "data: the input is empty in 1 of 5 pairs: a:2; the target is empty in 2 of 5"
      " pairs: a:3, a:5. Fill them, or set data.drop_empty=True to leave these pairs"
      " out.")


@pytest.fixture
def write(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def write_(**files):
    for name, rows in files.items():
      (tmp_path / f"{name}.jsonl").write_text("".join(
          json.dumps(row) + "\n" for row in rows))
  return write_


def pairs(**fields):
  return config.Data(**({
      "name": "files", "train": "a.jsonl", "validation": "v.jsonl", "test": "w.jsonl",
      "input_field": "q", "target_field": "a"} | fields))


def test_training_learns_every_answer_and_evaluation_keeps_them_as_references(write):
  rows = [{"q": "1", "a": ["x", "y"]}, {"q": "2", "a": "z"}]
  held = [{"q": "3", "a": ["x", "y"]}, {"q": " 3 ", "a": ["z", "x"]},
          {"q": "4", "a": "x"}]
  write(a=rows, v=held, w=[{"q": "5", "a": "x"}])

  found, facts = documents.load(pairs())
  apart, _ = documents.load(pairs(merge_references=False))

  assert found["train"] == [Document("1", "x"), Document("1", "y"), Document("2", "z")]
  assert found["validation"] == [Document("3", "x", ("y", "z")), Document("4", "x")]
  assert facts["splits"]["validation"] == {
      "read": 3, "kept": 2, "dropped": {"merged_as_reference": 1}, "chars": 6}
  assert apart["validation"][:2] == [
      Document("3", "x", ("y",)), Document(" 3", "z", ("x",))]


def test_a_reference_of_the_test_split_is_not_trained_on(write):
  write(a=[{"q": "1", "a": "x"}, {"q": "1", "a": "z"}], v=[{"q": "2", "a": "x"}],
        w=[{"q": "1", "a": ["y", "x"]}])

  found, facts = documents.load(pairs())

  assert found["train"] == [Document("1", "z")]
  assert facts["splits"]["train"]["dropped"] == {"duplicate": 1}


def test_pairs_with_an_empty_side_are_dropped_and_counted_where_asked(write):
  write(a=[{"q": "1", "a": "x"}, {"q": "2", "a": ""}, {"a": "y"}],
        v=[{"q": "3", "a": "x"}], w=[{"q": "4", "a": "x"}])

  found, facts = documents.load(pairs(drop_empty=True))

  assert found["train"] == [Document("1", "x")]
  assert facts["splits"]["train"]["dropped"] == {"empty": 2}


def test_limits_keep_the_same_documents_whatever_their_order(write):
  rows = [{"q": str(i), "a": "x"} for i in range(50)]
  write(a=[{"q": "a", "a": "x"}], v=rows, r=rows[::-1], w=[{"q": "w", "a": "x"}])
  load = lambda **fields: documents.load(pairs(**fields))

  few, facts = load(max_validation=5)
  more, _ = load(max_validation=20)
  reverse, _ = load(validation="r.jsonl", max_validation=5)
  other, _ = load(max_validation=5, seed=1)
  test, _ = load(validation="w.jsonl", test="v.jsonl", max_test=5)

  assert len(few["validation"]) == 5 and few["validation"] == test["test"]
  assert set(few["validation"]) == set(reverse["validation"]) < set(more["validation"])
  assert set(few["validation"]) != set(other["validation"])
  assert facts["splits"]["validation"]["dropped"] == {"limit": 45}
  assert len(few["train"]) == len(few["test"]) == 1


def test_other_files_are_read_as_the_config_reads_its_own(write):
  write(x=[{"q": "1 ", "a": ["x", "y"]}, {"q": "1", "a": "x"}])

  assert reading.read_more("x.jsonl", pairs()) == [
      Document("1", "x", ("y",)), Document("1", "x")]
