"""Tests for the tokenizers of BERT and RoBERTa, against Hugging Face Transformers."""

import json

import pytest
import tokenizers as hf_tokenizers
import transformers

from transfer_gen.data import tokenizers

TEXTS = (
    "Héllo, wörld! naïve CAFÉ", "e\u0301 combining", "我喜欢 BERT 模型。",
    "日本語テスト", "smile 😀👍🏽 end", "a [MASK] b [SEP] c [CLS]", "[mask] [ MASK ]",
    "a <mask> b</s>",
    "  spaces\t\ttabs\nnew ", "x" * 120 + " y", "don't e-mail U.S.A. $5.00 50%",
    "İstanbul ß ﬁ Ω", "zero\u200bwidth \u00ad \ufffd \x00 control", "")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFHIMNOSTU0123456789éö.,!?'$%&<>#[]-"
PIECES = list(dict.fromkeys([
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *"我喜欢模型。日本語😀",
    *(f"##{c}" for c in f"{LETTERS}喜欢型"), "hello", "wor", "##ld", "cafe", "##ve"]))


def assert_same_ids(ours, theirs):
  for text in TEXTS:
    want = theirs(text, add_special_tokens=False).input_ids
    assert ours.encode_marked([text]) == [want], text


@pytest.mark.parametrize("options", [
    {}, {"do_lower_case": False}, {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True}, {"tokenize_chinese_chars": False},
], ids=str)
def test_pieces_of_words_are_those_of_transformers(options, tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
  theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
  theirs.save_pretrained(tmp_path / "saved")  # As one tokenizer.json.

  ours, again = tokenizers.load(tmp_path), tokenizers.load(tmp_path / "saved")

  assert_same_ids(ours, theirs)
  assert_same_ids(again, theirs)
  assert ours.roles == {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "sep": 3} == again.roles
  assert ours.special["[MASK]"] == 4


@pytest.mark.parametrize("spaced", [False, True])
def test_robertas_tokens_are_those_of_transformers(spaced, tmp_path):
  own = hf_tokenizers.ByteLevelBPETokenizer()
  own.train_from_iterator(
      ["the naïve cat sat on the mat"] * 9, vocab_size=300, show_progress=False,
      special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
  own.save_model(str(tmp_path))
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(
      {"add_prefix_space": spaced}))
  theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)

  ours = tokenizers.load(tmp_path)

  assert_same_ids(ours, theirs)
  assert ours.roles == {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
  assert ours.special["<mask>"] == 4
