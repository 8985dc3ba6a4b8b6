"""Tests for activation statistics against activations captured from the model."""

import numpy as np

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.models import statistics
from transfer_gen.transfer import importance


def _model():
  module = registry.build(config.Decoder(
      vocab_size=7, num_layers=2, width=8, num_heads=2, mlp_width=6, max_length=8,
      activation="relu"))
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=spec.shape).astype(np.float32)
            for name, spec in registry.specs(module).items()}
  return module, params


def test_mean_squares_average_over_all_tokens_of_all_batches():
  module, params = _model()
  tokens = [np.array([[1, 2, 3], [4, 5, 6]]), np.array([[0, 6, 2], [1, 1, 5]])]

  found = statistics.inputs(
      module, params, [{"inputs": batch} for batch in tokens], "mlp")

  _, state = module.apply(
      {"params": tree.unflatten(params)}, np.concatenate(tokens),
      capture_intermediates=lambda module, _: module.name == "up")
  up = state["intermediates"]["layer_1"]["mlp"]["up"]["__call__"][0]
  expected = np.square(np.maximum(np.asarray(up, np.float64), 0)).mean((0, 1))
  assert set(found) == {"layer_0/mlp/down/kernel", "layer_1/mlp/down/kernel"}
  np.testing.assert_allclose(found["layer_1/mlp/down/kernel"], expected, rtol=1e-4)


def test_attention_statistics_are_computed_per_head():
  module, params = _model()
  name = "layer_0/attn/out/kernel"
  for part in ("kernel", "bias"):
    value = params[f"layer_0/attn/value/{part}"]
    value[..., 0, :] = 0  # The output of the first head is zero.

  found = statistics.inputs(
      module, params, [{"inputs": np.array([[1, 2, 3]])}], "heads")

  assert found[name].shape == (2,) and found[name][0] == 0 < found[name][1]
  assert importance.by_scores(found[name], 1).index.tolist() == [1]
