"""Tests that generation with a cache computes what whole forward passes do."""

import numpy as np
import pytest

from tests import random_models
from transfer_gen import config
from transfer_gen.generate import beam
from transfer_gen.generate import sampling
from transfer_gen.models import registry

SIZE = 23
SIZES = dict(vocab_size=SIZE, num_layers=2, width=8, num_heads=2)
CELLS = dict(vocab_size=SIZE, num_layers=1, embed_width=8, hidden_width=8)
MODELS = {
    "learned": config.Decoder(**SIZES, max_length=64, position_offset=2),
    "windows": config.Decoder(
        **SIZES, position="rotary", windows=(3, 0), num_kv_heads=1, head_dim=4),
    "relative": config.Decoder(**SIZES, position="relative", norm="rms"),
    "sinusoidal": config.Decoder(
        **SIZES, position="sinusoidal", block="parallel", tied=False),
    "pair": config.EncoderDecoder(**SIZES, position="relative", start_token=1),
    "pair_post": config.EncoderDecoder(
        **SIZES, max_length=32, norm_order="post", start_token=1),
    "lstm": config.Recurrent(**CELLS | {"num_layers": 2}, cell="lstm"),
    "gru_attention": config.Recurrent(**CELLS, cell="gru", attention=True),
    "rnn_window": config.Recurrent(**CELLS, cell="rnn", window=3, bidirectional=True),
    "lstm_pair": config.Recurrent(
        **CELLS, cell="lstm", encoder=True, bidirectional=True, start_token=1),
}
PROMPTS = [[3, 1, 4, 1, 5], [9]]
READ = [[2, 6, 5], [8, 7, 9, 3, 2, 3]]
TOKENS = 9


def whole_pass(module, params, prompts, texts):
  """Returns log probabilities f64[T, V] of each row's new tokens, from one pass."""
  encodes = registry.encodes(module.config)
  rows = np.zeros((len(texts), 5 + TOKENS), np.int32)
  for row, prompt, text in zip(rows, prompts, texts):
    row[:len(prompt) + len(text)] = [*prompt, *text]
  more = {}
  if encodes:
    more["encoder_inputs"] = np.int32([READ[0] + [0] * 3, READ[1]])
    more["encoder_counts"] = np.int32([3, 6])
  logits = np.float64(random_models.apply(module, params, rows, **more))
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  return [row[len(prompt) - 1:len(prompt) - 1 + len(text)]
          for row, prompt, text in zip(logits, prompts, texts)]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long)
    if name in ("learned", "sinusoidal", "relative", "pair_post", "lstm",
                "rnn_window") else name
    for name in MODELS])
def test_cached_tokens_and_beams_equal_those_of_whole_passes(name):
  module, params = random_models.build(MODELS[name], noise=1.0, seed=3)
  encodes = registry.encodes(MODELS[name])
  prompts = [[1], [1]] if encodes else PROMPTS
  rows = {"prompts": prompts, "encoder_inputs": READ if encodes else None}

  greedy = sampling.generate(
      module, params, decoding=config.Decoding(max_tokens=TOKENS), **rows)
  found = beam.search(
      module, params, decoding=config.Decoding(max_tokens=TOKENS, beams=3), **rows)

  chances = whole_pass(module, params, prompts, greedy)
  assert greedy == [row.argmax(-1).tolist() for row in chances]
  for place in range(3):
    texts = [row[place].tokens for row in found]
    chances = whole_pass(module, params, prompts, texts)
    scores = [row[np.arange(TOKENS), text].sum() / TOKENS
              for row, text in zip(chances, texts)]
    np.testing.assert_allclose([row[place].score for row in found], scores, rtol=1e-4)
  assert len({tuple(one.tokens) for row in found for one in row}) > 2
