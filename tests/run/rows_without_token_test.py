"""Tests that rows of a table without a token are not written, for all tokenizers."""

import io
import json

from etils import epath
import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from tests import random_models
from transfer_gen import config
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizer_pieces
from transfer_gen.data import tokenizer_sentencepiece
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.run import decode

TEXTS = ["a bad cab", "dad cab a bad", "cab dad", "a a b b c c d d"]
ROWS = 300  # More than any of the tokenizers has, and the same for all of them.


def _sentencepiece(kind):
  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS), model_writer=made, model_type=kind, vocab_size=11,
      hard_vocab_limit=False, minloglevel=2)
  return made.getvalue()


def _pieces():
  model = _sentencepiece("bpe")
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  # Ids with a gap: the piece with the id 3 comes last.
  ids = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
  return tokenizer_pieces.Pieces(model, ids | {processor.id_to_piece(3): len(ids) + 2})


def _trained(model, trainer, **parts):
  made = hf.Tokenizer(model)
  made.pre_tokenizer = hf.pre_tokenizers.Whitespace()
  for name, part in parts.items():
    setattr(made, name, part)
  made.train_from_iterator(TEXTS, trainer)
  return tokenizer_kinds.HuggingFace(made)


def _words(folder):
  path = epath.Path(folder / "words.json")
  path.write_text(json.dumps(  # With a gap at 3.
      {"<unk>": 0, "bad": 1, "cab": 2, "dad": 4, "a": 5}))
  return tokenizers.load(path)


_UNK = dict(special_tokens=["<unk>"], show_progress=False)
KINDS = {
    "bytes": lambda folder: tokenizers.build(config.Tokenizer(kind="bytes"), TEXTS),
    "characters": lambda folder: tokenizers.build(
        config.Tokenizer(kind="characters"), TEXTS),
    "characters_with_a_gap": lambda folder: tokenizer_kinds.Characters(
        ["a", None, "b", None, "c"], {"pad": 1}),
    "bpe": lambda folder: tokenizers.build(
        config.Tokenizer(kind="bpe", size=262), TEXTS),
    "word_piece": lambda folder: _trained(
        hf.models.WordPiece(unk_token="<unk>"),
        hf.trainers.WordPieceTrainer(vocab_size=20, **_UNK),
        decoder=hf.decoders.WordPiece()),
    "unigram": lambda folder: _trained(
        hf.models.Unigram(), hf.trainers.UnigramTrainer(
            vocab_size=20, unk_token="<unk>", **_UNK)),
    "word_level": lambda folder: _trained(
        hf.models.WordLevel(unk_token="<unk>"), hf.trainers.WordLevelTrainer(**_UNK)),
    "words_with_a_gap": _words,
    "sentencepiece_bpe": lambda folder: tokenizer_sentencepiece.SentencePiece(
        _sentencepiece("bpe")),
    "sentencepiece_unigram": lambda folder: tokenizer_sentencepiece.SentencePiece(
        _sentencepiece("unigram")),
    "sentencepiece_with_a_gap": lambda folder: tokenizer_sentencepiece.SentencePiece(
        _sentencepiece("bpe"), added={"<far>": 14}),
    "pieces_with_a_gap": lambda folder: _pieces(),
    "two_sides": lambda folder: tokenizers.for_both_sides(
        tokenizers.build(config.Tokenizer(kind="characters"), TEXTS),
        tokenizers.build(config.Tokenizer(kind="bytes"), TEXTS)),
}


@pytest.fixture(name="tokenizer", params=KINDS)
def _tokenizer(request, tmp_path):
  return KINDS[request.param](tmp_path)


def _gaps(tokenizer):
  named = {*tokenizer.roles.values(), *tokenizer.special.values()}
  return [i for i, text in enumerate(tokenizer.tokens) if not text and i not in named]


def test_ids_without_a_token_are_decoded_as_nothing(tokenizer):
  ids = tokenizer.encode("a")
  beyond = [*_gaps(tokenizer), *range(tokenizer.size, ROWS), 2**20]

  assert tokenizer.decode(beyond) == ""
  assert tokenizer.decode([*ids, *beyond]) == tokenizer.decode(ids)


def _model(tokenizer):
  """A model whose likeliest rows are those without a token, and then that of `a`."""
  kind = config.Decoder(num_layers=1, width=4, num_heads=1, max_length=32, tied=False)
  model = registry.with_vocabulary(kind, ROWS)
  module, params = random_models.build(model)
  head = np.zeros((4, ROWS), np.float32)
  head[:, tokenizer.encode("a")[-1]] = 2
  head[:, [*_gaps(tokenizer), *range(tokenizer.size, ROWS)]] = 5
  # All states are ones, so that a logit is the sum of a column.
  params = {**params, "head/kernel": head, "final_norm/scale": np.zeros(4, np.float32),
            "final_norm/bias": np.ones(4, np.float32)}
  return decode.TextModel(
      module=module, params=params, tokenizer=tokenizer, model=model,
      data=config.Data(length=16))


def test_rows_without_a_token_are_not_written_even_if_they_are_likeliest(tokenizer):
  model = _model(tokenizer)
  last = tokenizer.encode("a")[-1:]

  [[greedy]] = decode.answers(
      model, ["a"], config.Decoding(max_tokens=4), strict=True).texts

  assert greedy == tokenizer.decode(last * 4) != ""


@pytest.mark.parametrize("fields", [dict(temperature=0.05), dict(beams=2)])
def test_neither_samples_nor_beams_contain_rows_without_a_token(fields):
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), TEXTS)

  [[text]] = decode.answers(
      _model(tokenizer), ["a"], config.Decoding(max_tokens=4, **fields)).texts

  assert text == "aaaa"


def test_what_is_shown_while_it_is_written_has_no_rows_without_a_token():
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), TEXTS)
  shown = []

  decode.stream(_model(tokenizer), "a", config.Decoding(max_tokens=4), shown.append)

  assert "".join(shown) == "aaaa"


@pytest.mark.parametrize("name", [
    "bpe", "word_piece", "unigram", "word_level", "sentencepiece_bpe",
    "sentencepiece_unigram", "sentencepiece_with_a_gap", "pieces_with_a_gap"])
def test_a_tokenizer_without_its_last_token_reads_and_writes_with_the_others(
    name, tmp_path):
  tokenizer = KINDS[name](tmp_path)
  rows = tokenizer.size - 1
  lost = tokenizer.tokens[rows].decode()

  cut = tokenizers.within(tokenizer, rows)

  assert cut.size <= rows and cut.tokens == tokenizer.tokens[:cut.size]
  assert cut.roles == tokenizer.roles
  ids = cut.encode_batch(["a bad cab", lost])
  assert all(i < rows for text in ids for i in text)
  assert cut.decode(cut.encode("a")) == tokenizer.decode(tokenizer.encode("a"))
  cut.save(epath.Path(tmp_path / "saved"))
  assert tokenizers.load(tmp_path / "saved").tokens == cut.tokens
