"""Tests for matching tokens by the bytes that they stand for."""

import io
import json
import shutil

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from tests import paths
from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_sentencepiece
from transfer_gen.data import tokenizers
from transfer_gen.transfer import vocabulary

SETTINGS = hypothesis.settings(
    derandomize=True, deadline=None, database=None)
Vocabulary = vocabulary.Vocabulary
SURFACES = st.lists(st.binary(max_size=3), max_size=12)
TEXT = ["the cat sat on the mat", "a dog (and a cat) sat", "the mat, the dog."] * 9


@SETTINGS
@hypothesis.given(SURFACES, SURFACES)
def test_match_finds_the_first_token_with_equal_bytes(source, target):
  index = vocabulary.match(Vocabulary(tokens=tuple(source)),
                           Vocabulary(tokens=tuple(target)))

  for token, row in zip(target, index, strict=True):
    assert row == (source.index(token) if token and token in source else -1)


def test_special_tokens_match_by_role_not_by_text():
  source = Vocabulary(tokens=(b"", b"", b"a", b"", b"<s>"),
                      roles={"eos": 0, "pad": 1, "unk": 3})
  target = Vocabulary(tokens=(b"a", b"", b"<s>", b"", b""),
                      roles={"unk": 1, "bos": 2, "sep": 3, "eos": 3, "pad": 4})

  # The source has no bos. Row 3 is both sep, which the source lacks, and eos.
  assert vocabulary.match(source, target).tolist() == [2, 3, -1, 0, 1]


@pytest.mark.parametrize("fields, message", [
    ({"roles": {"eos": 2}}, "eos is token 2, and there are 0 to 1"),
    ({"counts": np.zeros(3, np.int64)}, "2 tokens and counts of shape"),
])
def test_an_inconsistent_vocabulary_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    Vocabulary(tokens=(b"a", b""), **fields)


@SETTINGS
@hypothesis.given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=6),
                  st.text("ab", max_size=8))
def test_a_cut_spells_the_surface_with_the_fewest_tokens(pieces, surface):
  tokens = tuple(piece.encode() for piece in pieces)
  surface = surface.encode()
  # The fewest tokens that spell each prefix, by breadth-first search.
  fewest = {b"": 0}
  for number in range(1, len(surface) + 1):
    for start in list(fewest):
      for token in tokens:
        if surface.startswith(start + token):
          fewest.setdefault(start + token, number)

  cut = vocabulary.cut(surface, Vocabulary(tokens=tokens))

  if surface in fewest:
    assert b"".join(tokens[row] for row in cut) == surface
    assert len(cut) == fewest[surface]
  else:
    assert cut == ()


def test_ties_between_cuts_prefer_a_longer_first_token():
  tokens = Vocabulary(tokens=(b"a", b"ab", b"bc", b"c", b"abb", b"bbb", b"b"))

  assert vocabulary.cut(b"abc", tokens) == (1, 3)
  # Fewer tokens matter more than a longer first token, here "abb".
  assert vocabulary.cut(b"abbbb", tokens) == (1, 5)


def _byte_level(texts):
  tokenizer = hf.Tokenizer(hf.models.BPE())
  tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=True)
  tokenizer.decoder = hf.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, hf.trainers.BpeTrainer(
      vocab_size=300, show_progress=False, special_tokens=["<s>", "</s>"],
      initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()))
  return kinds.HuggingFace(tokenizer)


def _word_pieces(texts):
  tokenizer = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
  tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = hf.decoders.WordPiece()
  tokenizer.train_from_iterator(texts, hf.trainers.WordPieceTrainer(
      vocab_size=60, show_progress=False,
      special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
  return kinds.HuggingFace(tokenizer)


def _metaspace(texts):
  tokenizer = hf.Tokenizer(hf.models.Unigram())
  tokenizer.pre_tokenizer = hf.pre_tokenizers.Metaspace()
  tokenizer.decoder = hf.decoders.Metaspace()
  tokenizer.train_from_iterator(texts, hf.trainers.UnigramTrainer(
      vocab_size=40, show_progress=False, unk_token="<unk>",
      special_tokens=["<unk>", "<s>", "</s>"]))
  return kinds.HuggingFace(tokenizer)


def _words(texts):
  tokenizer = hf.Tokenizer(hf.models.WordLevel(unk_token="<unk>"))
  tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
  tokenizer.train_from_iterator(texts, hf.trainers.WordLevelTrainer(
      show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]))
  return kinds.HuggingFace(tokenizer)


def _sentencepiece(texts):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts), model_writer=model, vocab_size=40,
      model_type="unigram", hard_vocab_limit=False, minloglevel=2)
  return tokenizer_sentencepiece.SentencePiece(model.getvalue())


def _characters(texts):
  return kinds.Characters(sorted(set("".join(texts))))


KINDS = (_byte_level, _word_pieces, _metaspace, _words, _sentencepiece, _characters)


def _first(made):
  return Vocabulary(tokens=made.tokens, roles=made.roles, special=made.special)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_any_two_tokenizer_kinds_match_by_token_bytes(source, target):
  source, target = source(TEXT), target(TEXT)

  index = vocabulary.match(_first(source), _first(target))

  for row, source_row in enumerate(index):
    if source_row >= 0 and row not in target.roles.values():
      assert source.tokens[source_row] == target.tokens[row] != b""
      assert source_row not in source.roles.values()
  common = (set(source.tokens) & set(target.tokens)) - {b""}
  assert {target.tokens[row] for row in np.flatnonzero(index >= 0)} - {b""} == common
  for role in ("unk", "eos"):
    if role in source.roles and role in target.roles:
      assert index[target.roles[role]] == source.roles[role]


@pytest.mark.parametrize("kind", KINDS)
def test_token_bytes_spell_the_text_for_every_tokenizer_kind(kind):
  tokenizer = kind(TEXT)
  text = "the cat sat on the mat, the dog."

  ids = tokenizer.encode(text)

  assert b"".join(tokenizer.tokens[i] for i in ids).removeprefix(b" ") == text.encode()


def test_word_start_tokens_have_a_space_and_commas_do_not():
  for kind in KINDS[:-1]:
    tokens = set(kind(TEXT).tokens)
    assert b"," in tokens and any(token[:2] in (b" t", b" d") for token in tokens), kind


@paths.needs(paths.TOKENIZERS)
def test_gpt2_and_t5_match_all_shared_pieces(tmp_path):
  shutil.copy(paths.TOKENIZERS / "gpt2_vocab.json", tmp_path / "vocab.json")
  shutil.copy(paths.TOKENIZERS / "gpt2_merges.txt", tmp_path / "merges.txt")
  gpt2, t5, small = map(tokenizers.load, (
      tmp_path, paths.TOKENIZERS / "t5_32000.model",
      paths.TOKENIZERS / "spm_1000.model"))

  index = vocabulary.match(_first(gpt2), _first(t5))

  # The reference uses only the two vocabulary files: T5 marks a space with \u2581 and
  # GPT-2 with \u0120, and ASCII letters are the same in both.
  letters = json.loads((paths.TOKENIZERS / "gpt2_vocab.json").read_text())
  model = sentencepiece.SentencePieceProcessor(
      model_file=str(paths.TOKENIZERS / "t5_32000.model"))
  pieces = [model.id_to_piece(i) for i in range(3, 32000)]
  ascii_pieces = [piece for piece in pieces if piece.replace("\u2581", "").isascii()]
  shared = [piece for piece in ascii_pieces
            if piece.replace("\u2581", "\u0120") in letters]
  matched = {t5.tokens[i] for i in np.flatnonzero(index >= 0)}
  assert {piece.replace("\u2581", " ").encode() for piece in shared} <= matched
  assert gpt2.tokens[index[t5.encode("the house")[0]]] == b" the"
  assert index[t5.roles["eos"]] == gpt2.roles["eos"] == 50256
  assert (index >= 0).sum() > 18000
  assert (vocabulary.match(_first(t5), _first(small)) >= 0).sum() > 800
