"""Tests for decoding of texts."""

import dataclasses

import pytest

from tests import random_models
from transfer_gen import config
from transfer_gen.data import tokenizers
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.run import decode

DECODER = config.Decoder(num_layers=1, width=8, num_heads=2, max_length=64)
PAIR = config.EncoderDecoder(num_layers=1, width=8, num_heads=2, max_length=64)
LETTERS = tokenizers.build(config.Tokenizer(kind="characters"), ["abcdefgh"])


def make(kind):
  """Returns a text model of letters with random params."""
  model = registry.with_vocabulary(kind, LETTERS.size)
  module, params = random_models.build(model)
  return decode.TextModel(
      module=module, params=params, tokenizer=LETTERS, model=model,
      data=config.Data(
          length=12, input_field="input" if registry.encodes(kind) else ""))


@pytest.mark.parametrize("kind, fields", [
    (DECODER, {}), (PAIR, dict(beams=3, num=2)),
    (DECODER, dict(temperature=1.0, num=2)),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        (PAIR, {}), (DECODER, dict(beams=3, num=2)),
        (PAIR, dict(temperature=1.0, num=2))))])
def test_answers_are_in_the_order_of_inputs_and_do_not_depend_on_the_batch(
    kind, fields):
  inputs = ["abc", "hgfedcba", "d", "bb"]
  model, decoding = make(kind), config.Decoding(max_tokens=9, **fields)

  together = decode.answers(model, inputs, decoding).texts

  assert together == [decode.answers(model, [text], decoding).texts[0]
                      for text in inputs]
  assert together == decode.answers(model, inputs, decoding, batch_size=3).texts
  assert {len(row) for row in together} == {fields.get("num", 1)}
  assert len({row[0] for row in together}) > 1


INPUTS = ["abc", "hgfedcba", "d", "bb", "ab", "ef"]


def test_texts_are_cut_off_before_a_stop_whatever_the_batch():
  model, decoding = make(DECODER), config.Decoding(max_tokens=12)
  whole = [row[0] for row in decode.answers(model, INPUTS, decoding).texts]
  # Two letters that are in the middle of a text, and often parts of two steps.
  stop = next(text for text in whole if len(set(text)) > 2)[5:7]

  stopped = dataclasses.replace(decoding, stop=(stop, "~"))
  found = [row[0] for row in decode.answers(model, INPUTS, stopped, batch_size=4).texts]

  assert found == [text.split(stop)[0] for text in whole] != whole
  for text, answer in zip(INPUTS, found):
    parts = []
    assert decode.stream(model, text, stopped, parts.append) == answer
    assert "".join(parts) == answer


def test_eight_devices_write_what_one_writes():
  model, decoding = make(PAIR), config.Decoding(max_tokens=6)

  alone = decode.answers(model, INPUTS, decoding)
  divided = decode.answers(
      model, INPUTS, decoding, parallel=config.Parallel(), batch_size=8)

  assert divided == alone


def test_programs_are_counted_by_lengths_and_not_by_inputs():
  model, decoding = make(DECODER), config.Decoding(max_tokens=5)
  sampling.begin.clear_cache(), sampling.advance.clear_cache()

  for count in (9, 17, 30):
    inputs = ["abcdefgh"[:1 + i % 7] for i in range(count)]
    decode.answers(model, inputs, decoding, batch_size=8)

  # One padded length of prompts, and one of what is written.
  assert (sampling.begin._cache_size(), sampling.advance._cache_size()) == (1, 1)


def test_parts_of_a_stream_end_at_whole_characters():
  model = make(DECODER)
  bytes_ = tokenizers.build(config.Tokenizer(kind="bytes"), [])
  size = registry.with_vocabulary(DECODER, bytes_.size)
  module, params = random_models.build(size, noise=1.0, seed=2)
  model = dataclasses.replace(
      model, tokenizer=bytes_, module=module, params=params, model=size)
  # All that is left are the two bytes of a letter, and "a".
  letters = bytes_.encode("éa")
  decoding = config.Decoding(
      max_tokens=40, temperature=1.0, seed=3,
      suppress=tuple(i for i in range(bytes_.size) if i not in letters))
  parts = []

  answer = decode.stream(model, "a", decoding, parts.append)

  assert "".join(parts) == answer and "é" in answer
  assert len([part for part in parts if part]) > 5
