"""Tests that generation with a cache computes what whole forward passes do."""

import itertools

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
    "lstm_luong": config.Recurrent(
        **CELLS, encoder=True, bidirectional=True, start_token=1, input_feeding=True,
        encoder_attention="general"),
    "gru_bahdanau": config.Recurrent(
        **CELLS, cell="gru", encoder=True, bridge="tanh", start_token=1, coverage=True,
        encoder_attention="additive", attention_output="context"),
    "lstm_concat": config.Recurrent(
        **CELLS | {"num_layers": 2}, encoder=True, start_token=1, bridge="linear",
        encoder_attention="concat", dense_width=5),
    "lstm_latent": config.Recurrent(
        **CELLS | {"num_layers": 2}, encoder=True, start_token=1, latent_width=4),
    "latent_prefix": config.EncoderDecoder(
        **SIZES, position="relative", start_token=1, latent_width=4, latent_prefix=3),
    "latent_added": config.EncoderDecoder(
        **SIZES, position="rotary", start_token=1, latent_width=4, latent="added"),
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
    name if name in ("windows", "pair", "gru_attention", "lstm_luong", "gru_bahdanau",
                    "lstm_latent", "latent_prefix")
    else pytest.param(name, marks=pytest.mark.long) for name in MODELS])
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


@pytest.mark.parametrize("name, beams", [
    case if case in (("windows", 1), ("pair", 3), ("lstm_luong", 3))
    else pytest.param(*case, marks=pytest.mark.long)
    for case in itertools.product(MODELS, (1, 3))])
def test_a_resized_batch_writes_the_same(name, beams):
  module, params = random_models.build(MODELS[name], noise=1.0, seed=3)
  # After two tokens 4 of 16 rows are left, and two of them get longer than 16 tokens.
  budgets = [2, 20, 1, 2, 9, 1, 2, 1, 1, 2, 17, 1, 2, 2, 16, 1]
  texts = [[1 + i, *range(i % 5)] for i in range(16)]
  rows = {"prompts": texts}
  if registry.encodes(MODELS[name]):
    rows = {"prompts": [[1 + i] for i in range(16)], "encoder_inputs": texts}
  method = sampling if beams == 1 else beam
  generate = sampling.generate if beams == 1 else beam.search
  decoding = config.Decoding(
      max_tokens=20, beams=beams, temperature=float(beams == 1),
      repetition_penalty=1.2)

  def write(resize):
    method.advance.clear_cache()
    found = generate(module, params, decoding=decoding, budgets=budgets,
                     resize=resize, **rows)
    return found, method.advance._cache_size()

  (whole, once), (resized, programs) = write(False), write(True)

  assert (once, programs) == (1, 3)  # B and N are 16 and 16, 4 and 16, 4 and 32.
  if beams == 1:
    assert resized == whole
    assert [*map(len, whole)] == budgets
  else:
    tokens = lambda found: [[one.tokens for one in row] for row in found]
    assert tokens(resized) == tokens(whole)
    for row, same in zip(resized, whole):
      np.testing.assert_allclose(
          [one.score for one in row], [one.score for one in same], rtol=1e-5,
          atol=1e-6)
