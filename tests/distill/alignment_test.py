"""Tests for aligning two tokenizations of one text where they read the same bytes."""

import itertools

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tests import paths
from transfer_gen import config
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizers
from transfer_gen.distill import alignment

REAL = [paths.TOKENIZERS / name for name in ("t5_32000.model", "spm_1000.model")]
SETTINGS = hypothesis.settings(deadline=None, max_examples=25)
TEXT = st.text(st.sampled_from("ab e\n.é日\U0001f600"), max_size=40)
WORDS = st.lists(st.sampled_from(
    ["the", "quick", "I'll", "ﬁne", "x1", "-", "\n", " ", "."]),
                 min_size=1, max_size=12).map(" ".join)


def _trained(size=300):
  texts = ["the naïve quick 日本 the quick be a bee \U0001f600"] * 20
  return tokenizers.build(config.Tokenizer(kind="bpe", size=size), texts)


BPE, OTHER = _trained(), _trained(275)
BYTES = kinds.Bytes()
BARE = kinds.Characters(sorted("ab e\n.é日\U0001f600"), {})
CHARACTERS = kinds.Characters(sorted("ab e\n.é日\U0001f600"))


@pytest.fixture(name="real", scope="module")
def _real():
  return [tokenizers.load(path) for path in REAL]


def _rows(tokenizer, texts):
  """Returns rows of a language model: bos, text, eos, padding."""
  roles, _ = tokenizers.resolve_roles(tokenizer)
  rows = [[roles["bos"], *tokenizer.encode_batch([text])[0], roles["eos"]]
          for text in texts]
  out = np.full((len(rows), max(map(len, rows))), roles["pad"], np.int32)
  for row, ids in zip(out, rows):
    row[:len(ids)] = ids
  return out


def _read(tokenizer, ids):
  """Returns the bytes of tokens without white space, which tokenizers may add."""
  surfaces = b"".join(tokenizer.tokens[i] for i in ids)
  return b"".join(surfaces.replace("ﬁ".encode(), b"fi").split())


def _check(texts, student, teacher, longest=None):
  """Checks that aligned positions have read the same bytes; returns rows and index."""
  inputs = _rows(student, texts)
  rows, index, _ = alignment.teacher_rows(inputs, student, teacher, longest)
  assert rows.min() >= 0 and rows.max() < teacher.size
  for mine, theirs, places in zip(inputs, rows, index):
    met = [place for place in places.tolist() if place >= 0]
    assert met == sorted(set(met))  # Alignment is strictly increasing.
    for position, place in enumerate(places):
      if place >= 0:
        assert _read(student, mine[:position + 1]) == _read(
            teacher, theirs[:place + 1])
  return inputs, index


@SETTINGS
@hypothesis.given(texts=st.lists(TEXT, min_size=1, max_size=3))
@pytest.mark.parametrize("student, teacher", [
    (BPE, BYTES), (BYTES, BPE), (BPE, OTHER), (CHARACTERS, BPE), (BPE, CHARACTERS)],
                         ids=["bpe-bytes", "bytes-bpe", "bpe-bpe", "char-bpe",
                              "bpe-char"])
def test_bytes_characters_and_bpe_align_where_both_tokens_end(texts, student, teacher):
  inputs, index = _check(texts, student, teacher)

  # The reference: byte offsets at which tokens of both tokenizers end.
  for row, text, places in zip(inputs, texts, index):
    ends = [
        set(np.cumsum([len(tokenizer.tokens[i])
                       for i in tokenizer.encode_batch([text])[0]]))
        for tokenizer in (student, teacher)]
    assert (places[1:len(row)] >= 0).sum() == len((ends[0] & ends[1]) - {0}) + (
        1)  # The eos of both is aligned as well.


@paths.needs(*REAL)
@SETTINGS
@hypothesis.given(texts=st.lists(WORDS, min_size=1, max_size=3))
def test_sentencepiece_aligns_despite_normalization(real, texts):
  for student, teacher in itertools.permutations([*real, BPE], 2):
    _check(texts, student, teacher)


@paths.needs(*REAL)
def test_sentencepiece_and_bytes_align_at_every_word_end(real):
  text = "the quick brown fox\njumps over it"

  inputs, index = _check([text], real[0], BYTES)

  ends = {i + 1 for i, char in enumerate(text + " ") if char.isspace()}
  met = {int(place) for place in index[0] if place > 0}
  # Places count from bos, and SentencePiece puts a space before the first word.
  assert ends <= met
  assert (index[0, :-1] >= 0).mean() > 0.9 and inputs.shape[1] < len(text)


def test_a_character_cut_at_the_row_start_is_not_aligned():
  ids = np.array([BYTES.encode("é日x")[1:] + [BYTES.roles["eos"]]], np.int32)

  rows, index, _ = alignment.teacher_rows(ids, BYTES, BPE, None)

  whole = BPE.encode_batch(["日x"])[0]
  assert rows[0, :len(whole) + 1].tolist() == [*whole, BPE.roles["eos"]]
  assert index[0, 0] == -1 and index[0, -1] == len(whole)


def test_text_beyond_the_teacher_length_is_not_aligned():
  inputs, whole = _check(["the quick bee"], BPE, BYTES)
  _, cut = _check(["the quick bee"], BPE, BYTES, longest=6)

  np.testing.assert_array_equal(cut, np.where(whole < 6, whole, -1))
  assert (cut >= 0).any() and (cut < 0).sum() > (whole < 0).sum() and inputs.any()


@SETTINGS
@hypothesis.given(texts=st.lists(TEXT, min_size=1, max_size=4))
@pytest.mark.parametrize("student, teacher", [(BPE, BYTES), (BARE, BPE), (BYTES, BARE)])
def test_documents_of_a_packed_row_align_as_each_of_them_alone(student, teacher, texts):
  """Without special tokens only `positions` say where one begins."""
  texts = [text for text in texts if text] or ["a"]
  marks = {role for role in ("bos", "eos") if role in student.roles}
  bos, eos = ([student.roles[role]] if role in marks else [] for role in ("bos", "eos"))
  documents = [np.array([[*bos, *ids, *eos]], np.int32)
               for ids in student.encode_batch(texts)]
  sizes = [len(ids) + len(marks & teacher.roles.keys())
           for ids in teacher.encode_batch(texts)]
  positions = [np.arange(document.shape[1]) for document in documents]

  rows, index, theirs = alignment.teacher_rows(
      np.concatenate(documents, axis=1), student, teacher, None,
      np.concatenate(positions)[None])

  column = start = 0
  for document, size in zip(documents, sizes):
    row, places, _ = alignment.teacher_rows(document, student, teacher, None)
    found = index[0, column:column + document.shape[1]]
    np.testing.assert_array_equal(np.where(found < 0, -1, found - start), places[0])
    np.testing.assert_array_equal(rows[0, start:start + size], row[0, :size])
    np.testing.assert_array_equal(theirs[0, start:start + size], np.arange(size))
    column, start = column + document.shape[1], start + size


def _distance(one, other):
  """Returns the Levenshtein distance by its recursive definition."""
  if not one or not other:
    return len(one) + len(other)
  return min(_distance(one[1:], other) + 1, _distance(one, other[1:]) + 1,
             _distance(one[1:], other[1:]) + (one[0] != other[0]))


@SETTINGS
@hypothesis.given(
    st.text("abc", max_size=5), st.lists(st.text("abc", max_size=5), min_size=1,
                                         max_size=8))
def test_edit_distances_match_the_levenshtein_recursion(text, others):
  found = alignment.distances(text.encode(), [other.encode() for other in others])

  assert found.tolist() == [_distance(text, other) for other in others]


@SETTINGS
@hypothesis.given(
    st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=8),
    st.sets(st.text("abcd", min_size=1, max_size=4), min_size=1, max_size=8))
def test_each_token_maps_to_the_first_nearest_token(own, others):
  made = lambda words: type("T", (), {
      "tokens": (b"", b"", *(word.encode() for word in sorted(words))),
      "roles": {"bos": 0, "eos": 1}})
  source, target = made(own), made(others)
  source.roles = {"bos": 1, "sep": 0}

  index = alignment.nearest(source, target)

  # Special tokens match by role, and the target has no sep.
  assert index[:2].tolist() == [-1, 0]
  for token, found in zip(source.tokens[2:], index[2:]):
    near = [_distance(token, other) for other in target.tokens[2:]]
    assert found == 2 + near.index(min(near))
