"""Tests for decoding of texts."""

import pytest

from tests import random_models
from transfer_gen import config
from transfer_gen.data import tokenizers
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
