"""Tests for attention as one operation, as XLA computes it on CPUs."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests import random_models
from tests import small_runs
from tests.comparing import distance
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import attention
from transfer_gen.models import fused_attention
from transfer_gen.models import registry
from transfer_gen.run import audited
from transfer_gen.train import objectives

MODELS = {
    "grouped": config.Decoder(
        vocab_size=24, num_layers=2, width=16, num_heads=4, num_kv_heads=2,
        mlp_width=24, max_length=8, windows=(3, 0), attention_scale=0.3),
    "pair": config.EncoderDecoder(
        vocab_size=24, num_layers=1, width=16, num_heads=2, mlp_width=24,
        position="relative", relative_buckets=4, relative_distance=6)}


def _inputs(rows=3):
  tokens = np.random.default_rng(0).integers(1, 24, (rows, 9)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_einsum(name):
  model, batch = MODELS[name], _inputs()
  if name == "pair":
    batch |= {"encoder_inputs": batch["inputs"][:, :5],
              "encoder_counts": np.array([1, 3, 5], np.int32)}
  else:  # Several documents in a row.
    batch["positions"] = np.tile(np.arange(4, dtype=np.int32), (3, 2))
  _, params = random_models.build(model)

  def both(implementation):
    module = registry.build(dataclasses.replace(
        model, attention_implementation=implementation))
    nll_fn = objectives.next_token(module, False)
    return jax.jit(jax.value_and_grad(
        lambda params: nll_fn(params, batch, None).mean()))(params)

  (got, got_grads), (want, want_grads) = both("fused"), both("einsum")

  np.testing.assert_allclose(got, want, rtol=1e-6)
  for leaf, grad in want_grads.items():
    np.testing.assert_allclose(got_grads[leaf], grad, atol=2e-6, err_msg=leaf)


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_attention_is_the_same_function(dtype, bound):
  """With a bias, a mask that rows share or not, and rows that see one position."""
  rng = np.random.default_rng(0)
  query, key, value = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (
      (2, 6, 4, 8), (2, 2, 6, 8), (2, 2, 6, 8)))
  bias = jnp.asarray(rng.normal(size=(1, 4, 6, 6)), jnp.float32)
  steps = jnp.arange(6)
  causal = steps[None, :, None] >= steps[None, None]
  for mask in (causal, causal & jnp.asarray(rng.random((2, 1, 6)) < 0.7) | (
      steps[None, :, None] == steps[None, None]), jnp.ones((2, 1, 6), bool)):
    for given in (None, bias):
      got = fused_attention.attend(query, key, value, mask, 0.25, given)
      want = attention.attend(query, key, value, mask, 0.25, bias=given)

      assert got.dtype == want.dtype == dtype and got.shape == want.shape
      assert distance(np.float32(got), np.float32(want)) < bound


def test_what_is_generated_continues_what_was_read():
  model = dataclasses.replace(MODELS["grouped"], attention_implementation="fused")
  module, params = random_models.build(model)
  variables, tokens = {"params": tree.unflatten(params)}, _inputs()["inputs"]
  run = functools.partial(module.apply, variables)
  whole = run(tokens)

  cache = run(3, 8, method="init_cache")
  full = jnp.full((3,), 7, jnp.int32)
  _, cache = run(tokens[:, :7], full, cache, method="extend")
  last, _ = run(tokens[:, 7:], jnp.ones_like(full), cache, method="extend")

  assert distance(last, whole[:, -1]) < 1e-5


@pytest.mark.parametrize("given, why", [
    (("gpu", "bfloat16", 64, (128, 128)), ""), (("gpu", "float16", 128, (2, 4)), ""),
    (("cpu", "bfloat16", 64, (128, 128)), "the devices are of cpu"),
    (("tpu", "bfloat16", 64, (128, 128)), "the devices are of tpu"),
    (("gpu", "float32", 64, (128, 128)), "cuDNN takes bfloat16 and float16 alone"),
    (("gpu", "bfloat16", 60, (128, 128)), "heads have 60 features, and must"),
    (("gpu", "bfloat16", 256, (128, 128)), "heads have 256 features, and must"),
    (("gpu", "bfloat16", 64, (127, 128)), "lengths are 127 and 128, and must be even")])
def test_cudnn_computes_where_dtype_and_sizes_allow(given, why):
  assert fused_attention.why_xla(*given).startswith(why)
  assert bool(fused_attention.why_xla(*given)) == bool(why)


def test_a_softcap_is_refused_and_a_plan_says_what_computes(tmp_path, capsys):
  with pytest.raises(errors.UserError, match=(
      "model.attention_implementation is 'fused', must be 'einsum' with an")):
    registry.specs(registry.build(dataclasses.replace(
        MODELS["grouped"], attention_implementation="fused", attention_softcap=5.0)))

  small_runs.write_lines(tmp_path / "text.txt")
  audited.write(small_runs.configure(
      tmp_path / "text.txt", dataclasses.replace(
          small_runs.DECODER, attention_implementation="fused"), steps=1),
                tmp_path / "run", 0.0)
  assert ("model.attention_implementation=fused: attention by XLA, since the devices"
          " are of cpu") in capsys.readouterr().out
