"""Splits that are split off train: by hash, at the end, and inside whole files."""

import hypothesis
from hypothesis import strategies as st
import pytest

from tests import paths
from transfer_gen import config
from transfer_gen.data import document
from transfer_gen.data import documents
from transfer_gen.data import splitting

SHAKESPEARE = paths.DATA / "tinyshakespeare" / "input.txt"
Document = document.Document


def split(texts, how="end", whole_files=False, **given):
  read = {"train": [Document("", text) for text in texts]} | {
      name: [Document("", text) for text in found] for name, found in given.items()}
  found, note = splitting.split(read, how, whole_files=whole_files, fold=False)
  return [[d.target for d in found[name]] for name in document.SPLITS], note


def test_the_last_tenths_validate_and_test():
  texts = [f"text {i}" for i in range(40)]

  found, note = split(texts)

  assert found == [texts[:32], texts[32:36], texts[36:]]
  assert note == "validation and test split off at the end of train"


def test_only_what_is_missing_is_split_off():
  texts = [f"text {i}" for i in range(40)]

  assert split(texts, test=["t"])[0] == [texts[:36], texts[36:], ["t"]]
  assert split(texts, validation=["v"], test=["t"]) == ([texts, ["v"], ["t"]], "")


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.text("ab \n", max_size=3), min_size=3),
                  st.sampled_from(["end", "hash", "auto"]))
def test_no_text_stands_in_two_splits_and_none_is_lost(texts, how):
  found, _ = split(texts, how)

  assert sorted(sum(found, [])) == sorted(texts)
  sets = [{document.fold(text) for text in part} for part in found]
  assert sum(map(len, sets)) == len(set.union(*sets))


def test_few_documents_are_split_at_the_end_so_that_no_split_is_empty():
  (train, *held), note = split([f"text {i}" for i in range(19)], "auto")
  _, other = split([f"text {i}" for i in range(20)], "auto")

  assert (train[-1], held) == ("text 14", [["text 15", "text 16"],
                                           ["text 17", "text 18"]])
  assert "at the end" in note and "by hash" in other


def test_a_whole_file_is_divided_at_starts_of_lines():
  text = "".join(f"line {i:03}\n" for i in range(200))

  found, _ = split([text, "x" * 50], "auto", whole_files=True)

  (train, other), (validation, _), (test, end) = found  # Too short for pieces.
  assert "".join([train, validation, test]) == text
  assert (train[-9:], len(validation), len(test)) == ("line 159\n", 180, 180)
  assert (len(other), len(end)) == (40, 5)  # One line: divided within it.


def test_each_part_of_a_mixture_is_split_at_its_own_end():
  read = {"train": [Document("", f"{part} {i}", part=part)
                    for part, count in enumerate((30, 10)) for i in range(count)]}

  found, _ = splitting.split(read, "end", whole_files=False, fold=True)

  assert [d.target for d in found["test"]] == ["0 27", "0 28", "0 29", "1 9"]


def test_whole_files_of_their_own_are_tested_in_pieces_too():
  lines = "".join(f"line {i:03}\n" for i in range(500))

  found, note = split([lines], whole_files=True, validation=["short"], test=[lines])

  assert found[0] == [lines] and found[1] == ["short"] and note == ""
  assert "".join(found[2]) == lines and len(found[2]) == 4
  many = [f"{i}{lines}" for i in range(10)]
  assert split([lines], whole_files=True, validation=["a"], test=many)[0][2] == many


@paths.needs(SHAKESPEARE)
def test_a_corpus_of_one_file_trains_on_its_beginning():
  found, facts = documents.load(config.Data(
      name="files", train=str(SHAKESPEARE), newline="keep"))

  text = SHAKESPEARE.read_text()
  (train,), *held = ([d.target for d in found[s]] for s in document.SPLITS)
  assert "".join([train, *held[0], *held[1]]) == text
  assert len(train) == pytest.approx(0.8 * len(text), rel=1e-3)
  assert len("".join(held[0])) == pytest.approx(0.1 * len(text), rel=1e-2)
  for pieces in held:
    assert all(500 <= len(piece) < 2000 for piece in pieces) and len(pieces) > 90
    assert all(piece.endswith("\n") for piece in pieces[:-1])
  assert "read as one document" in facts["notes"][0]
