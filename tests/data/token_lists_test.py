"""Tests for tokenizers that are read from plain lists of tokens."""

import json

from etils import epath
import pytest

from transfer_gen import errors
from transfer_gen.data import token_lists
from transfer_gen.data import tokenizers

SAMPLES = {
    "object.json": json.dumps({"a": 1, "c": 4, "b": 2, " ": 3}),
    "list.json": json.dumps(["", "a", "b", " ", "c"]),
    "lines.txt": "\na\nb\n \nc\n",
    "roles.json": json.dumps({"tokens": {"a": 1, "c": 4, "b": 2, " ": 3}}),
}


@pytest.fixture(name="write")
def _write(tmp_path):
  def write(content, name="tokens.json"):
    path = epath.Path(tmp_path / name)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
  return write


@pytest.mark.parametrize("name", SAMPLES)
def test_every_form_gives_the_same_ids(write, name):
  path = write(SAMPLES[name], name)

  tokenizer = tokenizers.load(path)

  assert tokenizer.encode("cab a") == [4, 1, 2, 3, 1]
  assert tokenizer.decode([4, 1, 2, 3, 1]) == "cab a"
  assert tokenizer.tokens == (b"", b"a", b"b", b" ", b"c")
  assert tokenizer.roles == {"pad": 0} and token_lists.read(path).size == 5


@pytest.mark.parametrize("char_level, text", [
    (True, "a cab"), (False, "the cab, the CAB (sees) the dog")])
def test_a_keras_tokenizer_gives_the_ids_that_keras_gives(write, char_level, text):
  keras = pytest.importorskip(
      "keras.src.legacy.preprocessing.text", reason="keras is not installed")
  theirs = keras.Tokenizer(char_level=char_level, oov_token="<OOV>", num_words=9)
  theirs.fit_on_texts(["the cab sees the dog", "a cab"])

  ours = tokenizers.load(write(theirs.to_json()))

  assert [ours.encode_batch([text])[0]] == theirs.texts_to_sequences([text])


def test_words_are_split_from_punctuation_and_unknown_ones_are_unk(write):
  tokenizer = tokenizers.load(write(
      {"<unk>": 0, "<start>": 1, "<end>": 2, "cab": 5, "the": 3, ",": 9}))

  assert tokenizer.encode_batch(["the cab, the dog"]) == [[3, 5, 9, 3, 0]]
  assert tokenizer.decode([1, 3, 5, 2]) == "the cab"
  assert tokenizer.roles == {"unk": 0, "bos": 1, "eos": 2}
  assert tokenizer.tokens[3:6] == (b" the", b"", b" cab") and tokenizer.size == 10


def test_roles_and_length_are_read_and_survive_saving(write, tmp_path):
  listed = token_lists.read(write({
      "tokens": ["\t", "\n", " ", "a"], "length": 16,
      "roles": {"bos": "\t", "eos": "\n", "pad": " "}}))
  listed.tokenizer.save(epath.Path(tmp_path / "saved"))
  loaded = tokenizers.load(tmp_path / "saved")

  assert listed.length == 16
  assert loaded.roles == {"bos": 0, "eos": 1, "pad": 2}
  # A character that also fills texts stays one; marks stand for no text.
  assert loaded.encode("a a") == [3, 2, 3] and loaded.decode([0, 3, 2, 1]) == "a "


def test_a_row_without_text_at_the_end_counts(write):
  assert token_lists.read(write(["a", "b", ""])).size == 3


@pytest.mark.parametrize("content, message", [
    ({"a": 0, "b": 0}, "'a' and 'b' have the id 0"),
    (["a", "b", "a"], "'a' has the ids 0 and 2"),
    ('{"a": 0, "a": 1}', "a name stands twice in an object: 'a'"),
    ({"a": -1}, "the id of 'a' is -1"), ({"a": 1e9}, "the id of 'a' is 1000000000.0"),
    ({"a": 10**12}, "the id of 'a' is 1000000000000"), ({"a": True}, "is True"),
    (["a", 3], "token 1 is 3, must be text"), (["\ud800"], "must be text"),
    ([], "no token in it"), (3, "neither a list of tokens nor an object"),
    ({"tokens": ["a"], "roles": {"bos": "b"}}, "roles has 'bos': 'b'"),
    ({"tokens": ["a"], "roles": {"begin": "a"}}, "roles has 'begin'"),
    ({"tokens": ["a"], "length": -1}, "length is -1"),
    ({"tokens": ["a"], "length": 3}, "length needs the role pad"),
    ({"tokens": ["a"], "size": 3}, "unknown: size"),
    (["the", "cab"], "words need a token for those that are not listed"),
    ({"class_name": "Tokenizer", "config": {}}, "without word_index"),
    ("[" * 100_000, "no list of tokens"), ('["a"', "no list of tokens"),
])
def test_a_malformed_list_is_refused_with_its_path(write, content, message):
  path = write(content)

  with pytest.raises(errors.UserError, match=message) as error:
    token_lists.read(path)
  assert str(path) in str(error.value)


def test_a_file_larger_than_any_list_is_refused(write, monkeypatch):
  path = write(["a", "b"])
  monkeypatch.setattr(token_lists, "_LARGEST", 4)

  with pytest.raises(errors.UserError, match="larger than 16 MiB"):
    token_lists.read(path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
  (tmp_path / "tokens.txt").write_bytes(b"a\n\xff\n")

  with pytest.raises(errors.UserError, match="tokens.txt: not UTF-8"):
    tokenizers.load(tmp_path / "tokens.txt")
