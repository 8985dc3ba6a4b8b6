"""Tests for what adapters compute, and their gradients, against NumPy in float64."""

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests import comparing
from transfer_gen import config
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters
from transfer_gen.models import attention
from transfer_gen.models import layers

LoRA = config.LoRA


def _near(ours, theirs):
  assert comparing.distance(ours, theirs) <= 1e-5


def _dense(adapter):
  """Adapts a Dense layer from [5, 2] to [3, 4].

  Returns its params, the same values as float64 matrices, and loss and gradients.
  """
  layer = layers.Dense((3, 4), axes=("heads", "kv", "mlp", "embed"),
                       reads=("heads", "kv"), kernel_init="xavier_normal")
  module = adapters.wrap(layer, (adapter,))
  generator = np.random.default_rng(1)
  inputs = generator.standard_normal((6, 5, 2))
  tilt = generator.standard_normal((6, 3, 4))  # The weights of the outputs in the loss.
  params = tree.unbox(jax.jit(module.init)(jax.random.key(0), inputs)["params"])
  params = {name: np.asarray(value) + 0.3 * generator.standard_normal(value.shape)
            for name, value in params.items()}
  loss = lambda params: (module.apply(
      {"params": params}, inputs.astype(np.float32)) * tilt).sum()
  f32 = {name: value.astype(np.float32) for name, value in params.items()}
  flat = {"inputs": inputs.reshape(6, 10), "tilt": tilt.reshape(6, 12),
          "kernel": np.float64(f32["kernel"]).reshape(10, 12),
          "bias": np.float64(f32["bias"]).reshape(1, 12)}
  return f32, flat, jax.jit(jax.value_and_grad(loss))(f32)


@pytest.mark.parametrize("scaling, scale", [("standard", 5 / 4), ("rslora", 5 / 2)])
def test_lora_and_its_gradients_match_a_float64_reference(scaling, scale):
  params, flat, (loss, grads) = _dense(
      LoRA(params="kernel", rank=4, alpha=5.0, scaling=scaling))
  inputs, tilt = flat["inputs"], flat["tilt"]
  a, b = (np.float64(params[f"lora_{part}"]) for part in "ab")
  assert a.shape == (5, 2, 4) and b.shape == (4, 3, 4)
  a, b = a.reshape(10, 4), b.reshape(4, 12)

  outputs = inputs @ flat["kernel"] + inputs @ a @ b * scale + flat["bias"]

  np.testing.assert_allclose(loss, (outputs * tilt).sum(), rtol=1e-5)
  _near(grads["lora_a"].reshape(10, 4), inputs.T @ (tilt @ b.T) * scale)
  _near(grads["lora_b"].reshape(4, 12), (inputs @ a).T @ tilt * scale)


def test_dora_matches_a_float64_reference_with_constant_norms():
  params, flat, (loss, grads) = _dense(
      LoRA(params="kernel", rank=4, alpha=2, dora=True))
  inputs, tilt = flat["inputs"], flat["tilt"]
  a, b = (np.float64(params[f"lora_{part}"]).reshape(shape)
          for part, shape in (("a", (10, 4)), ("b", (4, 12))))
  # Liu et al. (2024), section 4.3: gradients do not flow through the norms.
  moved = flat["kernel"] + a @ b / 2
  norms = np.sqrt((moved ** 2).sum(0))
  magnitude = np.sqrt((flat["kernel"] ** 2).sum(0)) + np.float64(
      params["lora_magnitude"]).reshape(-1)

  outputs = inputs @ (moved * magnitude / norms) + flat["bias"]
  factor = magnitude / norms

  np.testing.assert_allclose(loss, (outputs * tilt).sum(), rtol=1e-5)
  _near(grads["lora_a"].reshape(10, 4), inputs.T @ ((tilt * factor) @ b.T) / 2)
  _near(grads["lora_magnitude"].reshape(-1),
        ((inputs @ moved) / norms * tilt).sum(0))


def test_prefix_attention_matches_numpy():
  model = config.Decoder(width=8, num_heads=2, num_kv_heads=1, bias=False)
  module = adapters.wrap(_Alone(model), (config.Prefix(params="attn/key/kernel",
                                                          length=2),))
  generator = np.random.default_rng(0)
  inputs = generator.standard_normal((1, 3, 8)).astype(np.float32)
  params = {name: 0.5 * generator.standard_normal(value.shape).astype(np.float32)
            for name, value in tree.unbox(
                jax.jit(module.init)(jax.random.key(0), inputs)["params"]).items()}
  exact = {name.split("/", 1)[1].removesuffix("/kernel"): np.float64(value)
       for name, value in params.items()}

  outputs = jax.jit(module.apply)({"params": tree.unflatten(params)}, inputs)

  query = np.einsum("btd,dhk->bthk", inputs, exact["query"])
  key, value = (np.concatenate([
      exact[f"prefix_{part}"][None],
      np.einsum("btd,dgk->btgk", inputs, exact[part])], 1)[:, :, 0]
                for part in ("key", "value"))
  scores = np.einsum("bthk,bsk->bhts", query, key) / 2
  # Every position sees the 2 entries of the prefix, and the positions up to itself.
  scores[..., np.triu(np.ones((3, 5), bool), 3)] = -np.inf
  weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  mixed = np.einsum("bhts,bsk->bthk", weights, value)
  _near(np.asarray(outputs), np.einsum("bthk,hkd->btd", mixed, exact["out"]))


class _Alone(nn.Module):
  """A single causal attention layer."""
  config: config.Decoder

  @nn.compact
  def __call__(self, x):
    positions = jnp.arange(x.shape[1])[None]
    mask = positions[:, :, None] >= positions[:, None]
    return attention.Attention(self.config, name="attn")(x, positions, mask, None)[0]
