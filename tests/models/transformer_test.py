"""Tests for the decoder against float64 NumPy that computes one position at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import random_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import positions as positions_lib
from transfer_gen.models import registry

GPT2 = config_lib.Decoder(
    vocab_size=23, num_layers=2, width=12, num_heads=3, mlp_width=20, max_length=16)
LLAMA = config_lib.Decoder(
    vocab_size=23, num_layers=2, width=12, num_heads=6, num_kv_heads=2, head_dim=4,
    mlp_width=20, position="rotary", norm="rms", norm_epsilon=1e-6,
    activation="swiglu", tied=False, bias=False, rotary_base=100.0)
VASWANI = config_lib.Decoder(
    vocab_size=23, num_layers=2, width=12, num_heads=2, mlp_width=20,
    position="sinusoidal", norm_order="post", activation="relu", embed_scale=3.0,
    logit_scale=0.5, attention_scale=0.7)
NEOX = config_lib.Decoder(
    vocab_size=23, num_layers=2, width=12, num_heads=2, mlp_width=20, tied=False,
    position="rotary", rotary_dim=4, rotary_base=50.0, rotary_scaling="linear",
    rotary_factor=3.0, block="parallel", activation="gelu_exact",
    unbiased=("query", "key", "value", "out"))
GEMMA = config_lib.Decoder(
    vocab_size=23, num_layers=4, width=12, num_heads=4, num_kv_heads=2, head_dim=6,
    mlp_width=20, position="rotary", rotary_base=900.0, rotary_base_window=10.0,
    rotary_scaling="yarn", rotary_factor=4.0, rotary_length=40, rotary_ramp=(1.0, 8.0),
    rotary_magnitude=1.2, windows=(2, 4, 0), norm="rms", norm_order="both",
    norm_offset=1.0, query_norm=True, activation="geglu", bias=False, embed_scale=3.4,
    attention_softcap=1.5, logit_softcap=2.0)
OTHER = config_lib.Decoder(
    vocab_size=23, num_layers=2, width=12, num_heads=2, mlp_width=20, max_length=16,
    position_offset=2, block="parallel_one_norm", activation="silu", final_norm=False,
    windows=(3,), query_norm=True, unbiased=("down", "norm"))
SCALED = dataclasses.replace(
    LLAMA, head_dim=8, rotary_scaling="llama3", rotary_factor=5.0, rotary_length=30,
    rotary_ramp=(0.3, 2.0), activation="geglu_exact", bias=True,
    unbiased=("out", "up", "down", "gate"))
CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "vaswani": VASWANI, "neox": NEOX,
           "gemma": GEMMA, "other": OTHER, "scaled": SCALED}
INPUTS = np.random.default_rng(0).integers(0, 23, (3, 9)).astype(np.int32)


def logits_of(config, params, inputs=INPUTS):
  return apply(registry.build(config), params, inputs)


class Reference:
  """Computes the model in float64 NumPy, one head and one position at a time."""

  def __init__(self, config, params):
    self.config = config
    self.params = {name: np.float64(x) for name, x in params.items()}

  def __call__(self, inputs):
    return np.stack([self.row(row) for row in inputs])

  def row(self, tokens):
    c, p = self.config, self.params
    x = p["embed/embedding"][tokens] * c.embed_scale
    if c.position == "learned":
      x = x + p["position/embedding"][c.position_offset:][:len(tokens)]
    if c.position == "sinusoidal":
      for t in range(len(tokens)):
        for i in range(c.width):
          angle = t / 10000 ** ((i - i % 2) / c.width)
          x[t, i] += np.cos(angle) if i % 2 else np.sin(angle)
    for i in range(c.num_layers):
      window = c.windows[i % len(c.windows)] if c.windows else 0
      x = self.block(f"layer_{i}", x, window or len(tokens))
    if c.norm_order != "post" and c.final_norm:
      x = self.norm("final_norm", x)
    head = p["embed/embedding"].T if c.tied else p["head/kernel"]
    return self.capped(x @ head * c.logit_scale, c.logit_softcap)

  def block(self, layer, x, window):
    order, norm = self.config.norm_order, self.norm
    attention = lambda x: self.attention(f"{layer}/attn", x, window)
    mlp = lambda x: self.mlp(f"{layer}/mlp", x)
    if self.config.block != "serial":
      seen = norm(f"{layer}/attn_norm", x)
      one = self.config.block == "parallel_one_norm"
      return x + attention(seen) + mlp(seen if one else norm(f"{layer}/mlp_norm", x))
    for part, branch in (("attn", attention), ("mlp", mlp)):
      y = branch(x if order == "post" else norm(f"{layer}/{part}_norm", x))
      if order == "both":
        y = norm(f"{layer}/{part}_post_norm", y)
      x = norm(f"{layer}/{part}_norm", x + y) if order == "post" else x + y
    return x

  def capped(self, x, cap):
    return cap * np.tanh(x / cap) if cap else x

  def affine(self, name, x):
    kernel = self.params[f"{name}/kernel"]
    y = np.tensordot(x, kernel, axes=x.ndim - 1)
    return y + self.params.get(f"{name}/bias", 0)

  def norm(self, name, x):
    c = self.config
    x = x - x.mean(-1, keepdims=True) if c.norm == "layer" else x
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_epsilon)
    scale = self.params[f"{name}/scale"] + c.norm_offset
    return x * scale + self.params.get(f"{name}/bias", 0)

  def mlp(self, name, x):
    hidden = self.affine(f"{name}/up", x)
    gelu = lambda x: 0.5 * x * (1 + np.tanh(
        np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
    exact = lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    silu = lambda x: x / (1 + np.exp(-x))
    gates = {"swiglu": silu, "geglu": gelu, "geglu_exact": exact}
    acts = {"relu": lambda x: np.maximum(x, 0), "gelu": gelu, "gelu_exact": exact,
            "silu": silu}
    if (gate := gates.get(self.config.activation)) is not None:
      hidden *= gate(self.affine(f"{name}/gate", x))
    else:
      hidden = acts[self.config.activation](hidden)
    return self.affine(f"{name}/down", hidden)

  def attention(self, name, x, window):
    c = self.config
    q, k, v = (self.affine(f"{name}/{part}", x) for part in ("query", "key", "value"))
    width = q.shape[-1]
    if c.query_norm:
      q, k = self.norm(f"{name}/query_norm", q), self.norm(f"{name}/key_norm", k)
    if c.position == "rotary":
      q, k = self.turned(q, window < len(x)), self.turned(k, window < len(x))
    mixed = np.zeros_like(q)
    for h in range(c.num_heads):
      g = h * k.shape[1] // c.num_heads
      for t in range(len(x)):
        start = max(0, t + 1 - window)
        scores = k[start:t + 1, g] @ q[t, h] * (c.attention_scale or width ** -0.5)
        scores = self.capped(scores, c.attention_softcap)
        weights = np.exp(scores - scores.max())
        mixed[t, h] = weights / weights.sum() @ v[start:t + 1, g]
    return self.affine(f"{name}/out", mixed)

  def turned(self, x, windowed):
    c = self.config
    half = (c.rotary_dim or x.shape[-1]) // 2
    y = x.copy()
    for i in range(half):
      if windowed and c.rotary_base_window:
        turn = c.rotary_base_window ** (-i / half)
      else:
        turn = c.rotary_base ** (-i / half)
        turn *= 1 - self.slowed(turn, i, half) * (1 - 1 / c.rotary_factor)
      for t in range(len(x)):
        z = (x[t, :, i] + 1j * x[t, :, i + half]) * np.exp(1j * t * turn)
        if not windowed or not c.rotary_base_window:
          z *= c.rotary_magnitude
        y[t, :, i], y[t, :, i + half] = z.real, z.imag
    return y

  def slowed(self, turn, i, half):
    """Returns how much of the slow-down a pair of features gets, from 0 to 1."""
    c = self.config
    low, high = c.rotary_ramp
    if c.rotary_scaling == "llama3":
      turns = turn * c.rotary_length / (2 * np.pi)
      return min(max((high - turns) / (high - low), 0), 1)
    if c.rotary_scaling == "yarn":
      # The index of the pair that makes so many turns over the original length.
      pair = lambda turns: half * np.log(
          c.rotary_length / (2 * np.pi * turns)) / np.log(c.rotary_base)
      first, last = max(np.floor(pair(high)), 0), min(np.ceil(pair(low)), 2 * half - 1)
      return min(max((i - first) / (last - first), 0), 1)
    return c.rotary_scaling == "linear"


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_match_a_float64_reference(name):
  _, params = random_models.build(CONFIGS[name])

  logits = logits_of(CONFIGS[name], params)

  assert distance(logits, Reference(CONFIGS[name], params)(INPUTS)) < 1e-5


@pytest.mark.parametrize("field, value", [
    ("norm_epsilon", 0.1), ("position", "rotary"), ("norm", "rms"),
    ("norm_order", "post"), ("activation", "relu"), ("attention_scale", 0.1),
    ("embed_scale", 2.0), ("logit_scale", 0.5), ("num_heads", 6),
    ("dtype", "bfloat16"), ("activation", "gelu_exact"), ("activation", "silu"),
    ("block", "parallel"), ("block", "parallel_one_norm"), ("windows", (3,)),
    ("norm_offset", 0.5), ("attention_softcap", 1.0), ("logit_softcap", 1.0),
    ("final_norm", False)])
def test_config_fields_without_params_change_the_logits(field, value):
  # Both models share all params that they have in common, so that a difference of the
  # logits comes from the field itself.
  base = dataclasses.replace(GPT2, head_dim=4, num_heads=3)
  module, params = random_models.build(base)
  config = dataclasses.replace(base, **{field: value})
  _, own = random_models.build(config)
  shared = {name: params[name] if name in params and
            params[name].shape == x.shape else x for name, x in own.items()}

  logits = logits_of(config, shared).astype(jnp.float32)

  # The two forms of GELU differ by less than 0.001.
  least = 1e-4 if value == "gelu_exact" else 1e-3
  assert distance(logits, logits_of(base, params)) > least
  assert np.isfinite(logits).all()


@pytest.mark.parametrize("field, value", [
    ("rotary_base", 7.0), ("rotary_base_window", 20.0), ("rotary_dim", 4),
    ("rotary_scaling", "linear"), ("rotary_scaling", "yarn"), ("rotary_factor", 9.0),
    ("rotary_ramp", (0.1, 0.2)), ("rotary_length", 7), ("rotary_magnitude", 2.0)])
def test_rotary_fields_change_the_logits(field, value):
  base = dataclasses.replace(SCALED, windows=(5, 0))
  _, params = random_models.build(base)

  other = logits_of(dataclasses.replace(base, **{field: value}), params)

  assert distance(other, logits_of(base, params)) > 1e-3


def test_dropout_is_applied_only_in_training_and_depends_on_its_key():
  module, params = random_models.build(dataclasses.replace(GPT2, dropout=0.3))

  plain = apply(module, params, INPUTS)
  drops = [apply(module, params, INPUTS, train=True,
                        rngs={"dropout": jax.random.key(key)}) for key in (1, 1, 2)]

  np.testing.assert_array_equal(plain, logits_of(GPT2, params))
  np.testing.assert_array_equal(drops[0], drops[1])
  assert distance(drops[0], drops[2]) > 0.01
  assert distance(drops[0], plain) > 0.01


@pytest.mark.parametrize("name", CONFIGS)
def test_the_decoder_is_causal(name):
  _, params = random_models.build(CONFIGS[name])
  changed = INPUTS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % 23

  before, after = (logits_of(CONFIGS[name], params, x) for x in (INPUTS, changed))

  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert distance(after[:, 5:], before[:, 5:]) > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_decoding_matches_the_full_forward_pass(name):
  module, params = random_models.build(CONFIGS[name])
  whole = apply(module, params, INPUTS)
  counts = np.array([4, 1, 3], np.int32)
  prompts = np.where(np.arange(5)[None] < counts[:, None], INPUTS[:, :5], 0)

  cache = module.apply({}, 3, 12, method="init_cache")
  logits, cache = apply(module, params, prompts, counts, cache, method="extend")
  rows = np.arange(3)
  assert distance(logits, whole[rows, counts - 1]) < 1e-5
  for step in range(3):
    logits, cache = apply(
        module, params, INPUTS[rows, counts + step][:, None],
        np.ones(3, np.int32), cache, method="extend")
    assert distance(logits, whole[rows, counts + step]) < 1e-5
  np.testing.assert_array_equal(cache["position"], counts + 3)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_cache_can_be_extended_by_a_second_prompt(name):
  module, params = random_models.build(CONFIGS[name])
  whole = apply(module, params, INPUTS)
  rows, counts = np.arange(3), np.array([4, 1, 3], np.int32)

  cache = module.apply({}, 3, 8, method="init_cache")
  _, cache = apply(module, params, INPUTS[:, :4], counts, cache, method="extend")
  more = np.stack([INPUTS[r, c:c + 4] for r, c in zip(rows, counts)])
  logits, _ = apply(
      module, params, more, np.array([2, 4, 1], np.int32), cache, method="extend")

  ends = counts + np.array([2, 4, 1]) - 1
  assert distance(logits, whole[rows, ends]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_gradients_are_finite_and_reach_every_param(name):
  module, params = random_models.build(CONFIGS[name])

  def loss(params):
    return jnp.square(module.apply({"params": tree.unflatten(params)}, INPUTS)).sum()

  for name, grad in jax.jit(jax.grad(loss))(params).items():
    assert np.isfinite(grad).all(), name
    assert np.abs(grad).max() > 0, name


@pytest.mark.parametrize("fields, message", [
    (dict(width=10), "num_heads is 3, must be a divisor of width, 10"),
    (dict(num_heads=4, num_kv_heads=3), "num_kv_heads is 3, must be a divisor of n"),
    (dict(position="rotary", head_dim=3), "heads have 3, an odd number"),
    (dict(position="alibi"), "'alibi', must be one of learned, sinusoidal, rotary"),
    (dict(norm="batch"), "norm is 'batch', must be one of layer, rms"),
    (dict(norm_order="sandwich"), "must be one of pre, post, both"),
    (dict(activation="tanh"), "one of gelu, gelu_exact, relu, silu, swiglu, g"),
    (dict(block="x"), "must be one of serial, parallel, parallel_one_norm"),
    (dict(block="parallel", norm_order="post"), "'serial' where norm_order is 'po"),
    (dict(unbiased=("mlp",)), "unbiased.0. is 'mlp', must be one of query, key"),
    (dict(windows=(2, -1)), "windows.1. is -1, must be a whole number from 0"),
    (dict(logit_softcap=-1.0), "logit_softcap is -1.0, must be a number from 0"),
    (dict(position="rotary", rotary_dim=6), "rotary_dim is 6, must be at most the"),
    (dict(position="rotary", rotary_scaling="ntk"), "one of none, linear, llama3, y"),
    (dict(position="rotary", rotary_scaling="yarn"), "rotary_length is 0, must be p"),
    (dict(position="rotary", rotary_scaling="llama3", rotary_length=8,
          rotary_ramp=(4.0, 1.0)), "rotary_ramp is .4.0, 1.0., must be two rising"),
    (dict(init="xavier"), "model.init is 'xavier', must be one of"),
    (dict(dtype="float"), "model.dtype is 'float', must be one of"),
    (dict(dropout=1.0), r"dropout is 1.0, must be a number in \[0, 1\)"),
    (dict(vocab_size=0), "vocab_size is 0, must be positive"),
    (dict(num_kv_heads=-1), "num_kv_heads is -1, must be a whole number from 0")])
def test_invalid_config_fields_are_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(GPT2, **fields)))


def test_text_longer_than_the_learned_positions_is_refused():
  _, params = random_models.build(GPT2)

  with pytest.raises(errors.UserError, match="17 tokens is longer .*max_length=16"):
    logits_of(GPT2, params, np.zeros((1, 17), np.int32))
  logits_of(GPT2, params, np.zeros((1, 16), np.int32))


def test_rotary_scores_depend_only_on_the_distance():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
  turns, _ = positions_lib.turning(
      dataclasses.replace(LLAMA, head_dim=8, rotary_base=50.0), 0)

  def score(at, other):
    turned = [positions_lib.rotate(x, jnp.array([[t]]), turns)
              for x, t in ((q, at), (k, other))]
    return float((turned[0] * turned[1]).sum())

  assert score(3, 1) == pytest.approx(score(12, 10), abs=0.5e-5, rel=0)
  assert score(3, 1) != pytest.approx(score(3, 2), abs=0.5e-2, rel=0)
