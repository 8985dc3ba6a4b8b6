"""Tests of writing many texts in batches that are resized on the way."""

import numpy as np

from tests import random_models
from transfer_gen import config
from transfer_gen.generate import bulk
from transfer_gen.generate import sampling

MODEL = config.EncoderDecoder(
    vocab_size=23, num_layers=1, width=8, num_heads=2, position="relative",
    start_token=1)
COUNT = 4 * 64  # From four batches on, they are resized.


def make():
  """Returns a model, and inputs whose texts end at 1 to 20 tokens, most at once."""
  rng = np.random.default_rng(0)
  budgets = [2, 1, 1, 2, 1, 1, 2, *[1] * 8, 20] * (COUNT // 16)
  read = [rng.integers(2, 23, size).tolist() for size in rng.integers(1, 9, COUNT)]
  return (*random_models.build(MODEL, noise=1.0, seed=3), bulk.Inputs(
      prompts=[[1]] * COUNT, encoder_inputs=read, budgets=budgets))


def test_resized_batches_give_each_input_what_it_gets_alone_on_eight_devices():
  module, params, inputs = make()
  decoding = config.Decoding(max_tokens=20, temperature=1.0)
  whole = sampling.generate(
      module, params, inputs.prompts, encoder_inputs=inputs.encoder_inputs,
      budgets=inputs.budgets, decoding=decoding)
  sampling.advance.clear_cache()

  found = list(bulk.write(
      module, params, inputs, decoding, batch_size=64, parallel=config.Parallel()))

  assert {i: texts for i, [texts] in found} == dict(enumerate(whole))
  lengths = [len(inputs.encoder_inputs[i]) for i, _ in found]
  assert lengths == sorted(lengths, reverse=True) and len(lengths) == COUNT
  # B is 64 or 16, which eight devices can divide, and N is 16 or 32.
  assert sampling.advance._cache_size() == 3


def test_a_watched_text_ends_although_its_batch_is_resized():
  module, params, inputs = make()
  decoding = config.Decoding(max_tokens=20, temperature=1.0)
  whole = dict(bulk.write(module, params, inputs, decoding, batch_size=64))
  stop = 1
  ends = lambda texts: [stop in text for text in texts]

  found = dict(bulk.write(
      module, params, inputs, decoding, batch_size=64, watch=ends, every=1))

  cut = lambda text: text[:text.index(stop) + 1] if stop in text else text
  assert found == {i: [cut(text)] for i, [text] in whole.items()}
  assert sum(map(len, (text for [text] in found.values()))) < sum(
      map(len, (text for [text] in whole.values())))
