"""Tests for variants of recurrent models in other frameworks, against float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import random_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore

BASE = config_lib.Recurrent(
    vocab_size=11, num_layers=2, embed_width=6, hidden_width=4, forget_bias=0.7)
INPUTS = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)
VARIANTS = {
    "no_bias": {"bias": False},
    "one_hot": {"embed_width": 0},
    "doubled_bias": {"recurrent_bias": True},
    "doubled_bias_rnn": {"recurrent_bias": True, "cell": "rnn"},
    "hard_lstm": {"gate": "hard_sigmoid"},
    "hard_3_lstm": {"gate": "hard_sigmoid_3"},
    "hard_gru": {"gate": "hard_sigmoid", "cell": "gru"},
    "reset_before": {"cell": "gru", "reset_after": False},
    "reset_before_hard": {"cell": "gru", "reset_after": False, "bias": False,
                          "gate": "hard_sigmoid"},
    "reset_after_no_bias": {"cell": "gru", "bias": False},
    "widths": {"hidden_widths": (5, 3), "dense_width": 4, "dense_activation": "linear"},
    "attention": {"attention": True},
    "attention_dense": {"attention": True, "dense_width": 5, "cell": "gru"},
    "window": {"window": 4, "pad_token": 2},
    "window_attention": {"window": 4, "attention": True, "recurrent_bias": True},
    "both_ways": {"window": 5, "bidirectional": True, "dense_width": 3},
    "both_ways_attention": {"window": 5, "bidirectional": True, "attention": True},
}
ENCODERS = {
    "plain": {},
    "one_hot": {"embed_width": 0, "encoder_vocab_size": 9, "encoder_length": 6,
                "pad_token": 3},
    "gru": {"cell": "gru", "num_layers": 1},
    "both_ways": {"bidirectional": True, "hidden_widths": (4, 6)},
    "both_ways_filled": {"bidirectional": True, "encoder_length": 5, "embed_width": 0},
}
SOURCES = np.random.default_rng(1).integers(0, 9, (3, 5)).astype(np.int32)
COUNTS = np.array([5, 2, 3], np.int32)


class Reference:
  """Computes the model in float64, one row at a time, with concatenated inputs."""

  def __init__(self, config, params):
    self.config = config
    self.params = {name: np.float64(x) for name, x in params.items()}

  def squash(self, x):
    if self.config.gate == "sigmoid":
      return 1 / (1 + np.exp(-x))
    slope = {"hard_sigmoid": 1 / 5, "hard_sigmoid_3": 1 / 6}[self.config.gate]
    return np.minimum(1, np.maximum(0, slope * x + 0.5))

  def stacked(self, name):
    """Returns the kernels of one reader, concatenated in the order of its inputs."""
    parts = sorted(leaf for leaf in self.params if leaf.split(name)[0] == ""
                   and leaf[len(name):].lstrip("_").count("/") == 0)
    return np.concatenate([self.params[leaf] for leaf in parts])

  def run(self, cell, xs, state=None):
    """Maps inputs [T, D] to states [T, 2, U]: hidden state and cell of each step."""
    p, kind = self.params, self.config.cell
    w, u = self.stacked(f"{cell}/input_kernel"), p[f"{cell}/recurrent_kernel"]
    b = p.get(f"{cell}/bias", np.zeros(u.shape[1:]))
    rb = p.get(f"{cell}/recurrent_bias", np.zeros(u.shape[1:]))
    h, c = np.zeros((2, u.shape[0])) if state is None else state
    out = []
    for x in xs:
      a = [x @ w[:, g] + b[g] for g in range(w.shape[1])]
      r = [h @ u[:, g] + rb[g] for g in range(w.shape[1])]
      if kind == "rnn":
        h = np.tanh(a[0] + r[0])
      elif kind == "gru":
        reset, z = self.squash(a[0] + r[0]), self.squash(a[1] + r[1])
        after = reset * r[2] if self.config.reset_after else (
            (reset * h) @ u[:, 2] + rb[2])
        h = (1 - z) * np.tanh(a[2] + after) + z * h
      else:
        i, f, o = (self.squash(a[g] + r[g] + (g == 1) * self.config.forget_bias)
                   for g in (0, 1, 3))
        c = f * c + i * np.tanh(a[2] + r[2])
        h = o * np.tanh(c)
      out.append([h, c])
    return np.array(out)

  def embedded(self, tokens, scope=""):
    table = self.params.get(f"{scope}embed/embedding")
    return (np.eye(table.shape[0])[tokens] @ table if table is not None else
            np.eye(self.params[f"{scope}layer_0/cell/input_kernel"].shape[0])[tokens])

  def logits(self, tokens, states=None):
    """Returns the logits of the token after a text, given the encoder's states."""
    config = self.config
    if config.window:
      tokens = ([config.pad_token] * config.window + list(tokens))[-config.window:]
    x = self.embedded(np.asarray(tokens))
    seen, last = [x], None
    for i in range(config.num_layers):
      out = self.run(f"layer_{i}/cell", x, None if states is None else states[i])[:, 0]
      last = out[-1]
      if config.bidirectional and not config.encoder:
        back = self.run(f"layer_{i}/backward", x[::-1])[::-1, 0]
        last, out = np.concatenate([last, back[0]]), np.concatenate([out, back], 1)
      x = out
      seen.append(x)
    if config.attention:
      everything = np.concatenate(seen, axis=1)
      scores = np.exp(everything @ self.stacked("attention/kernel"))
      last = scores / scores.sum() @ everything
    if config.dense_width:
      last = last @ self.stacked("dense/kernel") + self.params.get("dense/bias", 0)
      last = np.maximum(last, 0) if config.dense_activation == "relu" else last
    return last @ self.stacked("head/kernel") + self.params.get("head/bias", 0)

  def states(self, tokens):
    """Returns the state of each layer after the encoder has read a source."""
    config, found = self.config, []
    fill = [config.pad_token] * (config.encoder_length - len(tokens))
    x = self.embedded(np.array([*tokens, *fill]), "encoder/")
    for i in range(config.num_layers):
      out = self.run(f"encoder/layer_{i}/cell", x)
      last, x_next = out[-1], out[:, 0]
      if config.bidirectional:
        back = self.run(f"encoder/layer_{i}/backward", x[::-1])[::-1]
        last = np.stack([last, back[0]], axis=-1).reshape(2, -1)
        x_next = np.concatenate([x_next, back[:, 0]], axis=1)
      found.append(last)
      x = x_next
    return found


@pytest.mark.parametrize("fields", [
    pytest.param(fields, marks=pytest.mark.long if name in (
        "no_bias", "doubled_bias", "hard_lstm", "hard_3_lstm", "reset_after_no_bias",
        "both_ways_attention") else ()) for name, fields in VARIANTS.items()],
    ids=VARIANTS)
def test_logits_of_every_variant_match_a_float64_reference(fields):
  config = dataclasses.replace(BASE, **fields)
  module, params = random_models.build(config)

  logits = apply(module, params, INPUTS)

  reference = Reference(config, params)
  want = [[reference.logits(row[:t + 1]) for t in range(7)] for row in INPUTS]
  assert distance(logits, want) < 1e-5


@pytest.mark.parametrize("name", [
    "one_hot", "reset_before", "hard_lstm", "attention", "attention_dense",
    "window_attention", "both_ways", "widths"])
def test_cached_decoding_matches_the_full_forward_pass(name):
  module, params = random_models.build(dataclasses.replace(BASE, **VARIANTS[name]))
  whole = apply(module, params, INPUTS)
  counts, rows = np.array([4, 1, 3], np.int32), np.arange(3)
  prompts = np.where(np.arange(4) < counts[:, None], INPUTS[:, :4], 0)

  cache = module.apply({}, 3, 7, method="init_cache")
  logits, cache = apply(module, params, prompts, counts, cache, method="extend")

  for step in range(3):
    assert distance(logits, whole[rows, counts - 1 + step]) < 1e-5
    tokens = INPUTS[rows, counts + step][:, None]
    logits, cache = apply(
        module, params, tokens, np.ones(3, np.int32), cache, method="extend")
  np.testing.assert_array_equal(cache["position"], counts + 3)


@pytest.mark.parametrize("name", [
    "attention", "reset_before", *(
        pytest.param(name, marks=pytest.mark.long) for name in (
            "hard_lstm", "hard_gru", "hard_3_lstm", "window_attention", "one_hot",
            "doubled_bias_rnn"))])
def test_gradients_match_float64_finite_differences(name):
  config = dataclasses.replace(BASE, **VARIANTS[name])
  module, params = random_models.build(config)
  rng = np.random.default_rng(2)
  weights = rng.normal(size=(2, 4, 11))
  total = lambda params: (apply(module, params, INPUTS[:2, :4]) * weights).sum()

  def exact(params):
    reference = Reference(config, params)
    return sum((reference.logits(row[:t + 1]) * weights[i, t]).sum()
               for i, row in enumerate(INPUTS[:2, :4]) for t in range(4))

  grads = jax.grad(total)(params)

  for name in sorted(params):
    direction = rng.normal(size=params[name].shape)
    up, down = (exact({**params, name: params[name] + step})
                for step in (1e-6 * direction, -1e-6 * direction))
    error = np.float64(grads[name] * direction).sum() - (up - down) / 2e-6
    scale = np.linalg.norm(grads[name]) * np.linalg.norm(direction)
    assert scale > 0, name
    assert abs(error) < 1e-5 * scale, name


@pytest.mark.parametrize("fields", ENCODERS.values(), ids=ENCODERS)
def test_the_decoder_starts_from_the_final_encoder_states(fields):
  config = dataclasses.replace(BASE, encoder=True, **fields)
  module, params = random_models.build(config)

  logits = apply(module, params, INPUTS, encoder_inputs=SOURCES, encoder_counts=COUNTS)
  cache = apply(module, params, SOURCES, COUNTS, 7, method="encode")
  last, cache = apply(module, params, INPUTS, np.full(3, 7, np.int32), cache,
                      method="extend")

  reference = Reference(config, params)
  states = [reference.states(row[:count]) for row, count in zip(SOURCES, COUNTS)]
  want = [[reference.logits(row[:t + 1], states[i]) for t in range(7)]
          for i, row in enumerate(INPUTS)]
  assert distance(logits, want) < 1e-5
  assert distance(last, logits[:, -1]) < 1e-5


def test_padding_after_the_encoder_inputs_is_ignored():
  module, params = random_models.build(
      dataclasses.replace(BASE, encoder=True, bidirectional=True))
  tail = np.where(np.arange(5) < COUNTS[:, None], SOURCES, 8)

  one, other = (
      apply(module, params, INPUTS, encoder_inputs=tokens, encoder_counts=COUNTS)
      for tokens in (SOURCES, tail))

  assert (tail != SOURCES).any()
  np.testing.assert_array_equal(one, other)


def test_param_names_axes_and_reads_are_as_documented():
  specs = registry.specs(registry.build(dataclasses.replace(
      BASE, window=3, bidirectional=True, attention=True, num_layers=2)))
  vocabulary = registry.specs(registry.build(dataclasses.replace(
      BASE, embed_width=0, encoder=True, encoder_vocab_size=9)))

  shown = {name: (spec.shape, spec.axes, spec.reads) for name, spec in specs.items()}
  hidden = ((4, 4, 4), ("hidden", "gates", "hidden"), (True, False, False))
  assert shown["layer_1/cell/input_kernel"] == hidden
  assert shown["layer_1/backward/input_kernel_backward"] == hidden
  assert shown["attention/kernel_embed"] == ((6,), ("embed",), (True,))
  assert shown["attention/kernel_layer_0_backward"] == ((4,), ("hidden",), (True,))
  assert shown["head/kernel_layer_1"] == ((4, 11), ("hidden", "vocab"), (True, False))
  table = vocabulary["encoder/layer_0/cell/input_kernel"]
  assert (table.shape, table.axes, table.reads) == (
      (9, 4, 4), ("vocab", "gates", "hidden"), (False,) * 3)


@pytest.mark.parametrize("fields", [
    *(pytest.param(VARIANTS[name], id=name) for name in (
        "attention_dense", "one_hot", "doubled_bias", "reset_before",
        "both_ways_attention")),
    pytest.param({"encoder": True, **ENCODERS["both_ways_filled"]}, id="encoder")])
def test_growing_the_width_keeps_the_logits(fields):
  """Growing keeps the logits only if axes and reads of every leaf are correct."""
  old = dataclasses.replace(BASE, **fields)
  new = dataclasses.replace(old, hidden_width=12, embed_width=2 * old.embed_width)
  module, params = random_models.build(old)
  grown = registry.build(new)
  source = sources.from_tree({
      name: tree.Axes(jnp.asarray(params[name]), names=spec.axes, reads=tuple(
          axis for axis, reads in zip(spec.axes, spec.reads) if reads))
      for name, spec in registry.specs(module).items()})
  maps = [plan_lib.On(axis="hidden", map=axes.Grow())]
  if old.encoder:  # A bidirectional encoder has half the units in each direction.
    maps.insert(0, plan_lib.On(axis="hidden", map=axes.Grow(), params="encoder/.*"))
  if old.embed_width:
    maps.append(plan_lib.On(axis="embed", map=axes.Grow()))
  rows = resolve.resolve(
      plan_lib.TransferPlan(
          rules=(plan_lib.Rule(target="(.*)", source=r"\1"),), axes=tuple(maps),
          groups=(plan_lib.Group(name="all", params=".*"),)),
      {"": source.specs}, registry.specs(grown), {}, {
          "": registry.constants(old), resolve.TARGET: registry.constants(new)})
  wide = restore.restore(rows, {"": source}, lambda names: {})

  read = {"encoder_inputs": SOURCES, "encoder_counts": COUNTS} if old.encoder else {}
  want = apply(module, params, INPUTS, **read)
  assert distance(apply(grown, wide, INPUTS, **read), want) < 1e-5
  assert sum(x.size for x in wide.values()) > 2 * sum(x.size for x in params.values())


@pytest.mark.parametrize("name", ["attention", "window_attention", "one_hot"])
def test_greedy_generation_picks_the_most_likely_tokens(name):
  config = dataclasses.replace(BASE, **VARIANTS[name])
  module, params = random_models.build(config)

  [new] = sampling.generate(
      module, params, [[3, 1]], decoding=config_lib.Decoding(max_tokens=6))

  reference, text = Reference(config, params), [3, 1]
  for _ in range(6):
    text.append(int(reference.logits(text).argmax()))
  assert new == text[2:]


@pytest.mark.parametrize("fields, message", [
    ({"gate": "hard"}, "model.gate is 'hard', must be one of sigmoid, hard_sigmoid"),
    ({"bidirectional": True}, "model.window is 0, must be positive, for who reads"),
    ({"attention": True, "embed_width": 0}, "model.embed_width is 0, must be pos"),
    ({"hidden_widths": (3,)}, "model.hidden_widths is .3,., must be one positive"),
    ({"encoder": True, "window": 3}, "model.window is 3, must be 0 behind"),
    ({"encoder": True, "bidirectional": True, "hidden_width": 5},
     "model.hidden_width is 5, must be even")])
def test_an_invalid_config_field_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(BASE, **fields)))


def test_an_encoder_without_inputs_is_refused():
  module, params = random_models.build(dataclasses.replace(BASE, encoder=True))

  with pytest.raises(errors.UserError, match="there are no encoder_inputs to read"):
    module.apply({"params": tree.unflatten(params)}, jnp.asarray(INPUTS))
