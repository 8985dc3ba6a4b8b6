"""Tests that prompts become tokens as the rows of training begin."""

import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import encoding
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizers

PAD, BOS, EOS, SEP = range(4)
BARE = tokenizer_kinds.Characters(["a", "b", "\r", "\n"], {})  # No special tokens.


def encoder(**fields):
  return config.Recurrent(encoder=True, **fields)


def test_prompts_are_encoded_like_the_start_of_a_row():
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), ["abc é"])
  encode = lambda prompts, **fields: encoding.Encoding(
      config.Data(**fields), tokenizer).prompts(prompts)
  a, e = tokenizer.encode("aé")

  assert encode(["a", "e\u0301  \n", ""]) == [[BOS, a], [BOS, e], [BOS]]
  assert encode(["a"], input_field="q") == [[BOS, a, SEP]]
  with pytest.raises(errors.UserError, match="Prompt 2: 1 characters.*'x'"):
    encode(["a", "ax"])
  with pytest.raises(errors.UserError, match="Prompt 1 is empty"):
    encode([" "], input_field="q")


def test_prompts_become_encoder_inputs_and_a_start_token():
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), ["abc é"])
  encode = lambda prompts, **fields: encoding.Encoding(
      config.Data(), tokenizer, encoder(**fields)).encoder_prompts(prompts)
  a, e = tokenizer.encode("aé")

  assert encode(["a", "e\u0301 \n"]) == ([[a, EOS], [e, EOS]], [[BOS], [BOS]])
  assert encode(["a"], encoder_marks="both", start_token=7) == ([[BOS, a, EOS]], [[7]])
  with pytest.raises(errors.UserError, match="Prompt 2 is empty"):
    encode(["a", " "])


def test_encoder_prompts_without_bos_need_a_start_token():
  tokenizer = tokenizer_kinds.Characters(["a", "b"], {})
  encode = lambda **fields: encoding.Encoding(
      config.Data(), tokenizer, encoder(**fields)).encoder_prompts(["ab"])

  assert encode(start_token=1) == ([[0, 1]], [[1]])
  with pytest.raises(errors.UserError, match="no bos .* Set model.start_token"):
    encode()


def test_prompts_follow_the_newline_setting_of_the_data():
  encode = lambda newline: encoding.Encoding(
      config.Data(newline=newline), BARE).prompts(["a\r\n"])

  assert encode("keep") == [BARE.encode("a\r\n")]
  assert encode("fold") == [BARE.encode("a")]


def test_prompts_without_special_tokens_are_the_text_alone():
  found = encoding.Encoding(config.Data(), BARE)

  assert found.prompts(["ab"]) == [BARE.encode("ab")] and found.end_tokens() == ()
