"""Tests for reading word vectors, finding them by token, and aligning languages."""

import json

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.transfer import vectors
from transfer_gen.transfer import vocabulary

SETTINGS = hypothesis.settings(
    derandomize=True, deadline=None, database=None)
Vectors = vectors.Vectors
FINITE = st.floats(-1e3, 1e3, width=32)
LETTERS = st.characters(exclude_characters="\n\r", exclude_categories=("Cs",))
WORDS = st.lists(
    st.text(LETTERS, min_size=1).filter(lambda word: word.strip(" ") == word),
    min_size=1, max_size=5)


@st.composite
def _made(draw):
  words = draw(WORDS)
  shape = len(words), draw(st.integers(1, 4))
  return Vectors(words=tuple(word.encode() for word in words),
                 values=draw(hnp.arrays(np.float32, shape, elements=FINITE)))


def _write_text(path, made):
  count, width = made.values.shape
  lines = [b"%d %d" % (count, width)] + [
      word + b" " + " ".join(map(repr, value.tolist())).encode() + b" "
      for word, value in zip(made.words, made.values)]
  path.write_bytes(b"\n".join(lines) + b"\n")


@SETTINGS
@hypothesis.given(_made())
def test_word2vec_text_files_read_back_unchanged(tmp_path_factory, made):
  path = tmp_path_factory.mktemp("vec") / "x.vec"
  _write_text(path, made)

  read = vectors.read(path)

  assert read.words == made.words
  np.testing.assert_array_equal(read.values, made.values)


@pytest.mark.parametrize("name", ["words.txt", "words.json"])
def test_an_npy_file_reads_back_with_its_words(name, tmp_path):
  words = ["the", " the", "\u2581a", "日", " "]
  values = np.arange(10, dtype=np.float16).reshape(5, 2)
  np.save(tmp_path / "x.npy", values)
  (tmp_path / name).write_text(
      json.dumps(words) if name.endswith("json") else "\n".join(words) + "\n")

  read = vectors.read(tmp_path / "x.npy", tmp_path / name)

  assert read.words == tuple(word.encode() for word in words)
  assert read.values.dtype == np.float32
  np.testing.assert_array_equal(read.values, values)
  first = vectors.read(tmp_path / "x.npy", tmp_path / name, limit=2)
  assert (first.words, first.values.shape) == (read.words[:2], (2, 2))


def test_limit_stops_reading_after_the_first_words(tmp_path):
  (tmp_path / "x.vec").write_text("3 2\na 1 2\nb 3 4\nbroken")

  assert vectors.read(tmp_path / "x.vec", limit=2).words == (b"a", b"b")


@pytest.mark.parametrize("text, message", [
    ("", "first line must say"),
    ("the 0.1 0.2\n", "first line must say"),
    ("2 2\na 1 2\n", "says 2 words, and 1 follow"),
    ("1 2\na 1\n", "line 2: .* no word with 2 numbers"),
    ("1 2\na 1 two\n", "line 2: .* no word with 2 numbers"),
    ("1 2\na 1 nan\n", "b'a' .* not finite"),
])
def test_text_that_is_not_word2vec_is_refused_with_its_line(text, message, tmp_path):
  (tmp_path / "x.vec").write_text(text)

  with pytest.raises(errors.UserError, match=message):
    vectors.read(tmp_path / "x.vec")


@pytest.mark.parametrize("header", [
    "9" * 5000 + " 2", "2 " + "9" * 5000, "999999999999 300", "2 99999999999"])
def test_sizes_that_the_file_cannot_hold_are_refused_before_they_are_used(
    header, tmp_path):
  (tmp_path / "x.vec").write_text(f"{header}\na 1 2\n")

  with pytest.raises(errors.UserError, match="too short. Is the file cut off"):
    vectors.text_shape(tmp_path / "x.vec")


def test_invalid_or_pickled_arrays_are_refused(tmp_path):
  np.save(tmp_path / "x.npy", np.zeros((3, 2)))
  np.save(tmp_path / "flat.npy", np.zeros(3))
  np.save(tmp_path / "code.npy", np.array([print], object), allow_pickle=True)
  (tmp_path / "two.txt").write_text("a\nb\n")
  (tmp_path / "bad.json").write_text('{"a": 1}')
  (tmp_path / "ints.json").write_text("[1, 2, 3]")
  (tmp_path / "x.bin").write_bytes(b"")

  for name, words, message in (
      ("x.npy", "two.txt", "2 words for the 3 rows"),
      ("flat.npy", "two.txt", "no table of numbers"),
      ("code.npy", "two.txt", "an array of objects"),
      ("x.npy", "ints.json", "no JSON list of words"),
      ("x.npy", "bad.json", "no JSON list of words"),
      ("x.npy", None, "needs words="),
      ("x.npy", "none.txt", "none.txt: there is no such file"),
      ("none.vec", None, "none.vec: there is no such file"),
      ("x.bin", None, "word2vec text")):
    with pytest.raises(errors.UserError, match=message):
      vectors.read(tmp_path / name, words and tmp_path / words)


def test_a_token_finds_its_vector_despite_space_markers():
  # " é" as GPT-2 spells it, with one letter per byte.
  letters = "".join(vocabulary.byte_letters()[bytes([byte])] for byte in " é".encode())
  words = ("\u2581the", "\u0120cat", "\u0120日", "dog", "ing", letters)
  made = Vectors(words=tuple(word.encode() for word in words),
                 values=np.eye(6, dtype=np.float32) + 1)

  found = vectors.by_token(
      made, (b" the", b" cat", b"", b" dog", b"ing", b" \xc3\xa9", b"x", b" "))

  which = [int(row.argmax()) if row.any() else None for row in found]
  assert which == [0, 1, None, 3, 4, 5, None, None]


def test_by_ngrams_sums_the_ngrams_of_a_token():
  words = (b"abc", b"bcd", b"abcd", b"ab", b"abc")
  made = Vectors(words=words, values=np.float32([[1], [10], [100], [1000], [5e5]]))

  found = vectors.by_ngrams(made, (b" abcd", b"abc", b"ab", b"zz", b"", b"\xff"))

  assert found[:, 0].tolist() == [111, 1, 1000, 0, 0, 0]


def test_by_ngrams_takes_three_to_six_characters_at_any_place():
  words = (b"abc", b"bcde", b"cdefg", b"abcdef", b"ab", b"fg", b"g", b"abcdefg")
  made = Vectors(words=words, values=2.0 ** np.arange(8, dtype=np.float32)[:, None])

  found = vectors.by_ngrams(made, (b"abcdefg",))

  assert found.tolist() == [[1 + 2 + 4 + 8 + 128]]  # Two letters are no n-gram.


def test_by_words_averages_words_weighted_by_inverse_rank():
  made = Vectors(words=(b"dogs", b"cats", b"dog"), values=np.float32([[6], [12], [30]]))
  pieces = vocabulary.Vocabulary(tokens=(b" dog", b" cat", b"s", b"", b"q"))

  found = vectors.by_words(made, pieces)

  # Files list words by frequency, which is about 1 / rank by Zipf's law.
  np.testing.assert_allclose(found[:, 0], [
      (6 + 30 / 3) / (1 + 1 / 3), 12, (6 + 12 / 2) / (1 + 1 / 2), 0, 0], rtol=1e-6)


@SETTINGS
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_procrustes_recovers_a_rotation(seed, width):
  rng = np.random.default_rng(seed)
  rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
  points = rng.normal(size=(3 * width, width))

  found = vectors.procrustes(points, points @ rotation)

  np.testing.assert_allclose(found, rotation, atol=1e-9)


def test_procrustes_beats_every_other_rotation_on_noisy_pairs():
  rng = np.random.default_rng(0)
  source, target = rng.normal(size=(2, 9, 3))
  best = np.linalg.norm(source @ vectors.procrustes(source, target) - target)

  for _ in range(200):
    other = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert best <= np.linalg.norm(source @ other - target)


def test_a_dictionary_rotates_one_language_onto_the_other(tmp_path):
  rng = np.random.default_rng(1)
  values = rng.normal(size=(8, 3)).astype(np.float32)
  rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
  english = Vectors(words=tuple(b"e%d" % i for i in range(8)), values=values)
  german = Vectors(words=tuple(b"g%d" % i for i in range(8)),
                   values=(values @ rotation).astype(np.float32))
  (tmp_path / "de-en.txt").write_text(
      "g0 e0\ng1\te1\n\ng2   e2\ng3 e3\nunknown e4\n")
  pairs = vectors.read_dictionary(tmp_path / "de-en.txt")

  turned = vectors.align(german, english, pairs)

  assert pairs[1] == (b"g1", b"e1") and len(pairs) == 5
  np.testing.assert_allclose(turned.values, values, atol=1e-5)
  assert np.abs(german.values - values).max() > 0.1  # They differ before the rotation.
  with pytest.raises(errors.UserError, match="0 of 5 pairs .* other way round"):
    vectors.align(english, german, pairs)
  narrow = Vectors(words=(b"a",), values=np.ones((1, 2), np.float32))
  with pytest.raises(errors.UserError, match="width 3 .* width 2"):
    vectors.align(english, narrow, pairs)


def test_an_invalid_dictionary_is_refused(tmp_path):
  (tmp_path / "d.txt").write_text("a b\na b c\n")

  with pytest.raises(errors.UserError, match="line 2: b'a b c' is no pair"):
    vectors.read_dictionary(tmp_path / "d.txt")
  with pytest.raises(errors.UserError, match="there is no such file"):
    vectors.read_dictionary(tmp_path / "none.txt")
