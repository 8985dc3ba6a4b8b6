"""Tests for words by fastai's rules, and for the vocabularies that fastai keeps."""

import json
import os
import pickle

from etils import epath
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import token_lists
from transfer_gen.data import tokenizer_words
from transfer_gen.data import tokenizers

ITOS = [*tokenizer_words.SPECIAL, "the", "cat", ",", "sat", "!", "4", "so", "3", "do",
        "n't", "'s", "i", "\n", "(", ")", "xxfake", "xxfake"]


@pytest.mark.parametrize("text, words", [
    # What the documentation and the tests of fastai 1 and 2 show of each rule; spaces
    # that they leave double are no words.
    ("I'm so excited!!!!!!!!", "xxmaj i 'm so excited xxrep 8 !"),
    ("I've never ever ever ever ever ever ever ever done this.",
     "xxmaj i 've never xxwrep 7 ever done this ."),
    ("Inconsistent   use  of     spaces.", "xxmaj inconsistent use of spaces ."),
    ("I #like to #put #hashtags", "i # like to # put # hashtags"),
    ("I'M SHOUTING", "xxup i 'm xxup shouting"),
    ("I am speaking normally", "i am speaking normally"),
    ("Mark CAPITALIZED Only", "xxmaj mark xxup capitalized xxmaj only"),
    # By the same rules.
    ("aaa 1000 ab", "xxrep 3 a 1 xxrep 3 0 ab"), ("no no no2", "no no no2"),
    ("McDonald and iPhone", "mcdonald and iphone"), ("a/b\\c", "a / b \\ c"),
    ("Don't can't", "xxmaj do n't ca n't"), ("3,250.5 (x)", "3,250.5 ( x )"),
    ("\u00c9t\u00e9 OK,", "\u00e9t\u00e9 xxup ok ,"),
    # A text cannot spell a special token.
    ("xxbos XXMAJ xxboss", "xx bos xx xxup maj xxboss"),
])
def test_a_text_is_split_as_fastai_shows(text, words):
  assert tokenizer_words.split(text) == words.split()


def test_line_ends_are_words():
  assert tokenizer_words.split("A cat\n\nsat") == ["a", "cat", "\n\n", "sat"]


@pytest.mark.parametrize("text", [
    "The cat sat, so so so!", "THE CAT'S (cat)!!!!", "Don't sat", "DON'T\nthe cat"])
def test_texts_come_back_as_they_were(text):
  words = tokenizer_words.Words(ITOS)

  assert words.decode(words.encode(text)) == text


def test_special_tokens_have_roles_and_no_text():
  words = tokenizer_words.Words(ITOS)

  assert words.roles == {"unk": 0, "pad": 1, "bos": 2}
  assert words.special["xxmaj"] == 8 and set(words.tokens[:9]) == {b""}
  assert words.tokens[9:12] == (b" the", b" cat", b",")
  assert words.decode([2, 0, 9, 1, 10, 3]) == "the cat"
  # fastai ends a text where the next one begins.
  assert tokenizers.resolve_roles(words)[0]["eos"] == 2


def test_a_count_that_no_text_has_is_only_a_word():
  words = tokenizer_words.Words(["xxunk", "xxrep", "9999999", "a", "3"])

  assert words.decode([1, 2, 3]) == "9999999 a"
  assert words.decode([1, 4, 3]) == "aaa" and words.decode([3, 1, 4]) == "a"


def test_unknown_words_become_unk_or_are_named():
  words = tokenizer_words.Words(ITOS)

  assert words.encode_batch(["the dog sat"]) == [[9, 0, 12]]
  with pytest.raises(errors.UserError, match="1 words are outside .*: 'dog'"):
    words.encode("the dog sat")


def test_marks_that_a_vocabulary_lacks_are_left_out():
  words = tokenizer_words.Words(["xxunk", "cat"])

  assert words.encode("Cat") == [1]


def test_a_saved_tokenizer_is_the_same(tmp_path):
  words = tokenizer_words.Words([*ITOS, None])
  words.save(epath.Path(tmp_path / "t"))

  again = tokenizers.load(tmp_path / "t")

  assert (again.tokens, again.roles, again.special) == (
      words.tokens, words.roles, words.special)
  (tmp_path / "t" / "tokenizer_kind.json").write_text(
      json.dumps({"kind": "words", "words": ["xxunk", 3]}))
  with pytest.raises(errors.UserError, match="a list of texts with xxunk"):
    tokenizers.load(tmp_path / "t")


def test_frequent_words_of_the_training_text_get_rows():
  texts = ["b a a c", "B a b", "d d", "xxmaj"]

  words = tokenizers.build(config.Tokenizer(kind="words", size=300), texts)
  few = tokenizer_words.train(10, texts)

  # "B" is a mark and "b"; "d" occurs twice, and of equally frequent words the alphabet
  # decides.
  assert words.tokens[9:] == (b" a", b" b") and words.size == 11
  assert few.size == 10 and few.tokens[9:] == (b" a",)


@pytest.mark.parametrize("write", [
    lambda path: path.with_suffix(".pkl").write_bytes(pickle.dumps(ITOS)),
    lambda path: path.with_suffix(".pkl").write_bytes(pickle.dumps(ITOS, 2)),
    lambda path: path.with_suffix(".json").write_text(json.dumps(ITOS))])
def test_every_form_of_itos_is_read(tmp_path, write):
  write(tmp_path / "itos")
  [path] = tmp_path.iterdir()

  listed = token_lists.read(epath.Path(path))

  assert listed.size == len(ITOS)
  assert listed.tokenizer.encode("The cat\n") == [8, 9, 10, 21]
  assert listed.tokenizer.tokens[-2:] == (b"", b"")  # What fastai fills up with.
  assert tokenizers.load(path).tokens == listed.tokenizer.tokens


def test_lines_of_itos_are_read(tmp_path):
  path = epath.Path(tmp_path / "itos.txt")
  path.write_text("\n".join(word for word in ITOS if word != "\n"))

  assert token_lists.read(path).tokenizer.encode("The cat") == [8, 9, 10]


class _Evil:
  """An object that runs a command when it is unpickled."""

  def __init__(self, command):
    self._command = command

  def __reduce__(self):
    return os.system, (self._command,)


@pytest.mark.parametrize("value, message", [
    (lambda run: [*ITOS, _Evil(run)], "asks for posix.system"),
    (lambda run: _Evil(run), "asks for posix.system"),
    (lambda run: {"itos": ITOS}, "a pickle of a dict"),
    (lambda run: [*ITOS, 3], "a pickle of a list"),
    (lambda run: [*ITOS, ["a"]], "a pickle of a list"),
    (lambda run: tuple(ITOS), "a pickle of a tuple"),
    (lambda run: set(ITOS), "EMPTY_SET"),
])
def test_a_pickle_of_anything_else_is_refused_and_runs_nothing(
    tmp_path, value, message):
  done = tmp_path / "it ran"
  path = epath.Path(tmp_path / "itos.pkl")
  path.write_bytes(pickle.dumps(value(f"touch '{done}'")))

  with pytest.raises(errors.UserError, match=message) as error:
    token_lists.read(path)

  assert "plain list of texts" in " ".join(str(error.value).split())
  assert not done.exists() and str(path) in str(error.value)
  if "system" in message:  # Python's own unpickler does run the command.
    pickle.loads(path.read_bytes())
    assert done.exists()


@pytest.mark.parametrize("damage", [b"", b"\x80", b"\x80\x04]\x94(", b"not a pickle"])
def test_a_damaged_pickle_is_one_message(tmp_path, damage):
  path = epath.Path(tmp_path / "itos.pkl")
  path.write_bytes(damage)

  with pytest.raises(errors.UserError, match="itos.pkl"):
    token_lists.read(path)


def test_roles_beside_fastais_tokens_are_refused(tmp_path):
  path = epath.Path(tmp_path / "itos.json")
  path.write_text(json.dumps({"tokens": ITOS[:12], "roles": {"bos": "the"}}))

  with pytest.raises(errors.UserError, match="follow from their names"):
    token_lists.read(path)
