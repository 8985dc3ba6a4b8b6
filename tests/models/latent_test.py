"""Tests for models with a latent, against equations of the papers in float64."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import random_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.models import decoder_config
from transfer_gen.models import latent as latent_lib
from transfer_gen.models import registry

SIZE, Z = 11, 4
LSTM = config_lib.Recurrent(
    vocab_size=SIZE, num_layers=2, embed_width=6, hidden_width=5, encoder=True,
    latent_width=Z, forget_bias=0.7)
PREFIX = config_lib.EncoderDecoder(
    vocab_size=SIZE, num_layers=1, width=6, num_heads=2, mlp_width=7, max_length=12,
    latent_width=Z, latent_prefix=2, tied=False)
ADDED = dataclasses.replace(PREFIX, latent="added")
FORMS = {"lstm": LSTM, "prefix": PREFIX, "added": ADDED}
ALL = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)
RNG = np.random.default_rng(0)
READ = RNG.integers(0, SIZE, (3, 6)).astype(np.int32)
COUNTS = np.array([6, 2, 4], np.int32)
INPUTS = RNG.integers(0, SIZE, (3, 5)).astype(np.int32)
KEY = {"latent": jax.random.key(3)}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm(p, prefix, x, state, latent=None):
  """One step of both layers of an LSTM; returns its states, (h, c) of each layer."""
  states = []
  for layer, (h, c) in enumerate(state):
    w, r, b = (p[f"{prefix}layer_{layer}/cell/{leaf}"] for leaf in (
        "input_kernel", "recurrent_kernel", "bias"))
    a = [x @ w[:, gate] + h @ r[:, gate] + b[gate] for gate in range(4)]
    if latent is not None and layer == 0:
      more = p["layer_0/cell/input_kernel_latent"]
      a = [gate + latent @ more[:, i] for i, gate in enumerate(a)]
    c = sigmoid(a[1] + LSTM.forget_bias) * c + sigmoid(a[0]) * np.tanh(a[2])
    x = sigmoid(a[3]) * np.tanh(c)
    states.append((x, c))
  return states


def lstm_posterior(p, tokens):
  """Mean and log variance of what an LSTM has read."""
  state = [(np.zeros(5), np.zeros(5))] * 2
  for token in tokens:
    state = lstm(p, "encoder/", p["encoder/embed/embedding"][token], state)
  parts = {f"kernel_layer_{i}_{name}": x for i, both in enumerate(state)
           for name, x in zip("hc", both)}
  return [p[f"latent/{what}/bias"] + sum(
      x @ p[f"latent/{what}/{part}"] for part, x in parts.items())
      for what in ("mean", "log_var")]


def lstm_logits(p, tokens, z, config):
  del config
  state = [tuple(z @ p[f"latent/layer_{i}_{name}/kernel"]
                 + p[f"latent/layer_{i}_{name}/bias"] for name in "hc")
           for i in range(2)]
  found = []
  for token in tokens:
    state = lstm(p, "", p["embed/embedding"][token], state, z)
    found.append(state[-1][0] @ p["head/kernel"] + p["head/bias"])
  return np.stack(found)


def norm(p, name, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5)
  return x * p[f"{name}/scale"] + p[f"{name}/bias"]


def block(p, name, x, causal):
  """A pre-norm block (Radford et al., 2019) on f64[T, D]."""
  y = norm(p, f"{name}/attn_norm", x)
  q, k, v = (np.einsum("td,dhk->thk", y, p[f"{name}/attn/{part}/kernel"])
             + p[f"{name}/attn/{part}/bias"] for part in ("query", "key", "value"))
  scores = np.einsum("thk,shk->hts", q, k) / np.sqrt(q.shape[-1])
  if causal:
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  x = x + np.einsum(
      "hts,shk,hkd->td", weights, v, p[f"{name}/attn/out/kernel"]
  ) + p[f"{name}/attn/out/bias"]
  y = norm(p, f"{name}/mlp_norm", x)
  y = y @ p[f"{name}/mlp/up/kernel"] + p[f"{name}/mlp/up/bias"]
  y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y ** 3)))
  return x + y @ p[f"{name}/mlp/down/kernel"] + p[f"{name}/mlp/down/bias"]


def pooled_posterior(p, tokens):
  """Mean and log variance of the mean of what a Transformer returns."""
  x = p["embed/embedding"][tokens] + p["encoder/position/embedding"][:len(tokens)]
  x = norm(p, "encoder/final_norm", block(p, "encoder/layer_0", x, causal=False))
  return [x.mean(0) @ p[f"latent/{what}/kernel"] + p[f"latent/{what}/bias"]
          for what in ("mean", "log_var")]


def transformer_logits(p, tokens, z, config):
  x = p["embed/embedding"][tokens] + p["decoder/position/embedding"][:len(tokens)]
  seen = np.einsum("z,z...->...", z, p["latent/out/kernel"]) + p["latent/out/bias"]
  x = np.concatenate([seen, x]) if config.latent == "prefix" else x + seen
  x = block(p, "decoder/layer_0", x, causal=True)[-len(tokens):]
  return norm(p, "decoder/final_norm", x) @ p["head/kernel"]


def reference(config, params):
  """The functions of a form: to mean and log variance, and to logits."""
  p = {name: np.float64(x) for name, x in params.items()}
  posterior, logits = ((lstm_posterior, lstm_logits) if config is LSTM else
                       (pooled_posterior, transformer_logits))
  found = [posterior(p, row[:count]) for row, count in zip(READ, COUNTS)]
  mean, log_var = (np.stack(part) for part in zip(*found))
  return mean, log_var, lambda latents: np.stack([
      logits(p, row, z, config) for row, z in zip(INPUTS, latents)])


def posterior(module, params, **how):
  return np.float64(apply(module, params, READ, COUNTS, method="posterior", **how))


@ALL
def test_latents_and_logits_match_a_float64_reference(config):
  module, params = random_models.build(config)
  mean, log_var, logits_of = reference(config, params)
  read = dict(encoder_inputs=READ, encoder_counts=COUNTS)

  without, drawn = posterior(module, params), posterior(module, params, rngs=KEY)
  noise = (drawn - mean) / np.exp(0.5 * log_var)

  assert distance(without, mean) < 1e-5
  assert np.abs(noise).max() < 5 and np.abs(noise).min(1).max() > 0.01
  assert distance(apply(module, params, INPUTS, **read), logits_of(mean)) < 1e-5
  assert distance(apply(module, params, INPUTS, rngs=KEY, **read), logits_of(
      mean + np.exp(0.5 * log_var) * noise)) < 1e-5
  assert distance(logits_of(mean), logits_of(drawn)) > 0.01


def test_what_is_drawn_has_the_standard_deviation_of_the_posterior():
  config = dataclasses.replace(LSTM, latent_width=3000)
  module, params = random_models.build(config)

  drawn, mean = posterior(module, params, rngs=KEY), posterior(module, params)
  _, state = jax.jit(lambda: module.apply(
      {"params": tree.unflatten(params)}, INPUTS, encoder_inputs=READ,
      encoder_counts=COUNTS, mutable=["outputs"]))()
  noise = (drawn - mean) / np.exp(0.5 * np.float64(
      state["outputs"]["latent"]["latent_log_var"]))

  assert np.abs(noise.mean(1)).max() < 0.1
  np.testing.assert_allclose(noise.std(1), 1, atol=0.05)


def test_noise_depends_on_the_key_and_the_text_alone():
  key, other = jax.random.key(0), jax.random.key(1)

  whole = np.asarray(latent_lib.noise(key, READ, COUNTS, Z))
  padded = np.pad(READ, ((0, 0), (0, 3)), constant_values=7)[::-1]

  np.testing.assert_array_equal(
      latent_lib.noise(key, padded, COUNTS[::-1], Z), whole[::-1])
  assert (np.asarray(latent_lib.noise(other, READ, COUNTS, Z)) != whole).all()
  changed = np.where(np.arange(6) == 1, (READ + 1) % SIZE, READ)
  assert (np.asarray(latent_lib.noise(key, changed, COUNTS, Z)) != whole).all()
  assert (np.diff(whole, axis=0) != 0).all()


def test_a_latent_of_the_prior_depends_on_its_number_alone():
  many = np.asarray(latent_lib.prior(jax.random.key(5), 4000, Z))

  np.testing.assert_array_equal(latent_lib.prior(jax.random.key(5), 3, Z), many[:3])
  np.testing.assert_allclose(many.mean(0), 0, atol=0.1)
  np.testing.assert_allclose(np.cov(many.T), np.eye(Z), atol=0.1)


def test_a_plain_autoencoder_draws_nothing():
  module, params = random_models.build(dataclasses.replace(LSTM, variational=False))

  np.testing.assert_array_equal(
      posterior(module, params, rngs=KEY), posterior(module, params))
  assert not [name for name in params if "log_var" in name]


@ALL
def test_every_leaf_of_the_latent_names_its_axes(config):
  specs = {name: spec for name, spec in registry.specs(registry.build(config)).items()
           if "latent" in name}

  assert len(specs) == (19 if config is LSTM else 6)
  for name, spec in specs.items():
    if "kernel" in name:  # Whatever is made of the latent reads it.
      assert spec.reads == (True,) + (False,) * (len(spec.axes) - 1), name
    at = [i for i, axis in enumerate(spec.axes) if axis == "latent"]
    assert [spec.shape[i] for i in at] == [Z] * len(at), name
  assert not [name for name in registry.specs(registry.build(config)) if (
      "cross" in name or "bridge" in name)]
  assert codec.model_from_json(codec.model_to_json(config)) == config


@pytest.mark.parametrize("config, fields, message", [
    (LSTM, dict(encoder=False), "latent_width is 4, must be 0 without an encoder"),
    (LSTM, dict(bridge="tanh"), "bridge is tanh, must be none with a latent"),
    (LSTM, dict(encoder_attention="dot"), "dot, must be none with a latent"),
    (PREFIX, dict(latent="suffix"), "must be one of prefix, added"),
    (PREFIX, dict(latent_prefix=0), "latent_prefix is 0, must be a whole number from"),
])
def test_a_config_that_makes_no_sense_is_refused(config, fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(config, **fields)))


def test_fields_without_effect_do_not_make_two_models_of_one():
  none = dataclasses.replace(PREFIX, latent_width=0)

  assert decoder_config.explicit(none) == decoder_config.explicit(
      dataclasses.replace(none, variational=False, latent="added", latent_prefix=3))
  assert decoder_config.explicit(ADDED) != decoder_config.explicit(PREFIX)
  assert decoder_config.explicit(ADDED) == decoder_config.explicit(
      dataclasses.replace(ADDED, latent_prefix=5))
