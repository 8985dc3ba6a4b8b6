"""Tests for attention over what an encoder read, against the papers in float64."""

import dataclasses
import functools

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
from transfer_gen.models import registry
from transfer_gen.models import taps
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure

BASE = config_lib.Recurrent(
    vocab_size=11, num_layers=2, embed_width=6, hidden_width=4, encoder=True)
INPUTS = np.random.default_rng(0).integers(0, 11, (3, 5)).astype(np.int32)
SOURCES = np.random.default_rng(1).integers(0, 11, (3, 4)).astype(np.int32)
COUNTS = np.array([4, 2, 3], np.int32)
READ = {"encoder_inputs": SOURCES, "encoder_counts": COUNTS}
VARIANTS = {
    "bahdanau": dict(
        cell="gru", num_layers=1, bidirectional=True, bridge="tanh", encoder_width=3,
        encoder_attention="additive", attention_output="embed", attention_width=5,
        attention_bias="both", dense_width=3, dense_activation="tanh"),
    "luong": dict(
        bidirectional=True, bridge="linear", encoder_width=3, input_feeding=True,
        encoder_attention="general", forget_bias=0.0),
    "dot": dict(bidirectional=True, encoder_attention="dot", cell="rnn"),
    "concat_coverage": dict(
        encoder_attention="concat", coverage=True, input_feeding=True, embed_width=0,
        encoder_length=3, pad_token=2, hidden_widths=(5, 4)),
    "additive_coverage": dict(
        encoder_attention="additive", coverage=True, attention_output="state",
        cell="gru", reset_after=False),
    "concat": dict(encoder_attention="concat", attention_output="context", bias=False,
                   num_layers=1),
    "sum": dict(bidirectional=True, encoder_attention="sum", input_feeding=True),
    "dot_factor": dict(encoder_attention="dot", attention_factor=True, cell="gru",
                       attention_output="context"),
    "general_factor": dict(
        encoder_attention="general", attention_factor=True, num_layers=1,
        bridge="linear", encoder_width=3),
}


class Reference:
  """Computes the model in float64, token by token, with concatenated inputs."""

  def __init__(self, config, params):
    self.config = config
    self.p = {name: np.float64(x) for name, x in params.items()}
    self.hidden = []  # h of each layer, step by step.

  def cell(self, name, x, state):
    """Returns h and c after one step from x, all that a layer reads."""
    parts = sorted(n for n in self.p if n.startswith(f"{name}/input_kernel"))
    w = np.concatenate([self.p[part] for part in parts])
    u, (h, c) = self.p[f"{name}/recurrent_kernel"], state
    b = self.p.get(f"{name}/bias", np.zeros(u.shape[1:]))
    rb = self.p.get(f"{name}/recurrent_bias", np.zeros(u.shape[1:]))
    s = lambda x: 1 / (1 + np.exp(-x))
    a = np.einsum("d,dgu->gu", x, w) + b
    r = np.einsum("d,dgu->gu", h, u) + rb
    if self.config.cell == "rnn":
      return np.tanh(a[0] + r[0]), c
    if self.config.cell == "gru":
      reset, z = s(a[0] + r[0]), s(a[1] + r[1])
      after = reset * r[2] if self.config.reset_after else (
          (reset * h) @ u[:, 2] + rb[2])
      return (1 - z) * np.tanh(a[2] + after) + z * h, c
    i, f, g, o = a + r
    c = s(f + self.config.forget_bias) * c + s(i) * np.tanh(g)
    return s(o) * np.tanh(c), c

  def embedded(self, token, scope=""):
    table = self.p.get(f"{scope}embed/embedding", np.eye(11))
    return table[token]

  def dense(self, name, parts):
    """Returns the product with concatenated parts, of a layer's sorted kernels."""
    total = self.p.get(f"{name}/bias", 0)
    for part, x in parts.items():
      total = total + x @ self.p[f"{name}/kernel" + (part and f"_{part}")]
    return total

  def encode(self, tokens):
    """Returns what the encoder returns at each place, and the decoder's states."""
    config, states = self.config, []
    fill = [config.pad_token] * (config.encoder_length - len(tokens))
    xs = [self.embedded(token, "encoder/") for token in [*tokens, *fill]]
    for i in range(config.num_layers):
      ways = ("cell", "backward")[:1 + config.bidirectional]
      outs, ends = [], []
      for way in ways:
        width = len(self.p[f"encoder/layer_{i}/{way}/recurrent_kernel"])
        state, found = np.zeros((2, width)), []
        for x in xs if way == "cell" else xs[::-1]:
          state = self.cell(f"encoder/layer_{i}/{way}", x, state)
          found.append(state[0])
        outs.append(found if way == "cell" else found[::-1])
        ends.append(state)
      xs = [np.concatenate(both) for both in zip(*outs)]
      mixed = lambda arrays: np.stack(arrays, -1).ravel()  # Units in turns.
      end = [mixed([one[part] for one in ends]) for part in (0, 1)]
      if config.bridge != "none":
        end = [self.dense(f"layer_{i}/bridge_{part}", {"": x}) if (
            f"layer_{i}/bridge_{part}/kernel" in self.p) else 0 * x
               for part, x in zip("hc", end)]
        end = [np.tanh(x) for x in end] if config.bridge == "tanh" else end
      states.append(end)
    return np.array([mixed(both) for both in zip(*outs)]), states

  def context(self, memory, h, seen):
    config, scores = self.config, []
    for place, m in enumerate(memory):
      if config.encoder_attention in ("additive", "concat"):
        a = self.dense("attention/key", {"": m}) + self.dense(
            "attention/query", {"": h})
        if config.coverage:
          a = a + self.p["attention/coverage/kernel"] * seen[place]
        scores.append(np.tanh(a) @ self.p["attention/score/kernel"])
      elif config.encoder_attention == "sum":
        scores.append(np.tanh(h + m) @ self.p["attention/score/kernel"])
      else:
        key = m if config.encoder_attention == "dot" else (
            self.dense("attention/key", {"": m}))
        scores.append(self.p.get("attention/factor", 1) * (h @ key))
    weights = np.exp(scores) / np.exp(scores).sum()
    return weights @ memory, seen + weights

  def logits(self, tokens, source):
    config, found = self.config, []
    memory, states = self.encode(source)
    feed, seen = np.zeros(config.widths[-1]), np.zeros(len(memory))
    for token in tokens:
      # The parts of a kernel in the order of their names.
      x = [self.embedded(token)]
      if config.encoder_attention == "additive":
        context, seen = self.context(memory, states[-1][0], seen)
        x.append(context)
      if config.input_feeding:
        x.append(feed)
      x = np.concatenate(x)
      for i in range(config.num_layers):
        states[i] = self.cell(f"layer_{i}/cell", x, states[i])
        x = states[i][0]
      self.hidden.append([state[0] for state in states])
      if config.encoder_attention != "additive":
        context, seen = self.context(memory, x, seen)
      read = {"": x, "context": context, "embed": self.embedded(token)}
      if config.attention_output == "hidden":
        del read["embed"]
        feed = np.tanh(self.dense("attention/combine", read))
        read = {"": feed}
      last = "dense" if config.dense_width else "head"
      read = {part: x for part, x in read.items()
              if f"{last}/kernel" + (part and f"_{part}") in self.p}
      if config.dense_width:
        read = {"": np.tanh(self.dense("dense", read))}
      found.append(self.dense("head", read))
    return np.array(found)


def built(name, **fields):
  config = dataclasses.replace(BASE, **VARIANTS[name] | fields)
  return config, *random_models.build(config, noise=0.7)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_cached_steps_match_a_float64_reference(name):
  config, module, params = built(name)

  logits = apply(module, params, INPUTS, **READ)
  cache = apply(module, params, SOURCES, COUNTS, 5, method="encode")
  first = np.array([2, 1, 3], np.int32)
  prompts = np.where(np.arange(3) < first[:, None], INPUTS[:, :3], 0)
  last, cache = apply(module, params, prompts, first, cache, method="extend")
  rows = np.arange(3)
  next_, _ = apply(module, params, INPUTS[rows, first][:, None], np.ones(3, np.int32),
                   cache, method="extend")

  reference = Reference(config, params)
  want = np.array([reference.logits(row, source[:count])
                   for row, source, count in zip(INPUTS, SOURCES, COUNTS)])
  assert distance(logits, want) < 1e-5
  assert distance(last, want[rows, first - 1]) < 1e-5
  assert distance(next_, want[rows, first]) < 1e-5


def _heard(module, params, *args, **kwargs):
  with taps.listening(hidden=range(module.config.num_layers)) as seen:
    logits = module.apply({"params": tree.unflatten(params)}, *args, **kwargs)
  return logits, seen.hidden


# Of decoders whose layers are one loop, and of one whose layers are modules.
@pytest.mark.parametrize("name", [
    "bahdanau", "luong", "dot", *(pytest.param(name, marks=pytest.mark.long)
                                  for name in ("concat_coverage", "sum"))])
def test_hidden_states_of_each_layer_match_a_float64_reference(name):
  config, module, params = built(name)

  logits, hidden = jax.jit(functools.partial(_heard, module))(params, INPUTS, **READ)

  assert distance(logits, apply(module, params, INPUTS, **READ)) < 1e-6
  assert hidden.keys() == set(range(config.num_layers))
  for row in range(len(INPUTS)):
    reference = Reference(config, params)
    reference.logits(INPUTS[row], SOURCES[row][:COUNTS[row]])
    for layer, states in hidden.items():
      want = np.array([step[layer] for step in reference.hidden])
      assert distance(states[row], want) < 1e-5


def test_gradients_of_hidden_states_match_float64_finite_differences():
  config, module, params = built("luong")
  weights = np.random.default_rng(2).normal(size=(2, len(INPUTS[0]), 4))

  def total(params):
    _, hidden = _heard(module, params, INPUTS[:1], encoder_inputs=SOURCES[:1])
    return sum((hidden[i][0] * weights[i]).sum() for i in (0, 1))

  def exact(params):
    reference = Reference(config, params)
    reference.logits(INPUTS[0], SOURCES[0])
    return (np.array(reference.hidden).swapaxes(0, 1) * weights).sum()

  grads = jax.jit(jax.grad(total))(params)

  # A state of the top layer reaches the one below it through what is fed.
  for name in ("layer_0/cell/input_kernel_feed", "attention/combine/kernel",
               "layer_1/cell/recurrent_kernel", "encoder/embed/embedding"):
    direction = np.random.default_rng(3).normal(size=params[name].shape)
    up, down = (exact({**params, name: params[name] + step})
                for step in (1e-6 * direction, -1e-6 * direction))
    number = np.float64(grads[name] * direction).sum()
    assert number == pytest.approx((up - down) / 2e-6, rel=1e-4) and abs(number) > 1e-3


def test_padding_behind_what_the_encoder_reads_changes_nothing():
  _, module, params = built("luong")
  wide = np.concatenate([np.where(np.arange(4) < COUNTS[:, None], SOURCES, 7),
                         np.full((3, 3), 9, np.int32)], axis=1)

  one = apply(module, params, INPUTS, **READ)
  other = apply(
      module, params, INPUTS, encoder_inputs=wide, encoder_counts=COUNTS)
  nothing = apply(module, params, INPUTS, encoder_inputs=SOURCES,
                  encoder_counts=np.array([4, 0, 3], np.int32))

  assert distance(other, one) < 1e-6
  np.testing.assert_array_equal(nothing[0], one[0])
  assert np.isfinite(nothing).all()
  assert distance(nothing[1], one[1]) > 1e-3


@pytest.mark.parametrize("name", [
    "bahdanau", *(pytest.param(name, marks=pytest.mark.long)
                  for name in VARIANTS if name != "bahdanau")])
def test_gradients_match_float64_finite_differences(name):
  config, module, params = built(name)
  rng = np.random.default_rng(2)
  weights = rng.normal(size=(2, 3, 11))
  read = {name: x[:2] for name, x in READ.items()}
  total = lambda params: (apply(module, params, INPUTS[:2, :3], **read) * weights).sum()

  def exact(params):
    reference = Reference(config, params)
    return sum((reference.logits(row, source[:count]) * one).sum()
               for row, source, count, one in zip(
                   INPUTS[:2, :3], SOURCES, COUNTS, weights))

  grads = jax.jit(jax.grad(total))(params)

  for name in sorted(params):
    direction = rng.normal(size=params[name].shape)
    up, down = (exact({**params, name: params[name] + step})
                for step in (1e-6 * direction, -1e-6 * direction))
    error = np.float64(grads[name] * direction).sum() - (up - down) / 2e-6
    scale = np.linalg.norm(grads[name]) * np.linalg.norm(direction)
    assert scale > 0, name
    assert abs(error) < 2e-5 * scale, name


def test_dropout_acts_on_what_layers_read_inside_the_loop():
  _, module, params = built("luong", dropout=0.5)
  params["head/bias"] *= 0
  keys = [{"dropout": jax.random.key(seed)} for seed in (0, 0, 1)]

  one, same, other = (apply(module, params, INPUTS, train=True, rngs=key, **READ)
                      for key in keys)
  # Without what comes from inside the loop, only the token's own input is left.
  cut = {name: x * ("input_kernel_feed" not in name) for name, x in params.items()}
  without = apply(module, cut, INPUTS, train=True, rngs=keys[0], **READ)

  np.testing.assert_array_equal(one, same)
  assert distance(one, other) > 0.1
  assert distance(one, without) > 0.01
  np.testing.assert_array_equal(
      apply(module, params, INPUTS, **READ),
      apply(module, params, INPUTS, rngs=keys[2], **READ))


def test_param_names_axes_and_reads_are_as_documented():
  specs = {name: registry.specs(registry.build(dataclasses.replace(
      BASE, **VARIANTS[name]))) for name in ("bahdanau", "luong")}

  shown = {f"{model}:{name}": (spec.shape, spec.axes, spec.reads)
           for model, found in specs.items() for name, spec in found.items()}
  two, yes, no = (True, False), (True,), (False,)
  for name, want in {
      "bahdanau:attention/key/kernel": ((6, 5), ("memory", "mlp"), two),
      "bahdanau:attention/key/bias": ((5,), ("mlp",), no),
      "bahdanau:attention/query/kernel": ((4, 5), ("hidden", "mlp"), two),
      "bahdanau:attention/query/bias": ((5,), ("mlp",), no),
      "bahdanau:attention/score/kernel": ((5,), ("mlp",), yes),
      "bahdanau:layer_0/bridge_h/kernel": ((6, 4), ("memory", "hidden"), two),
      "bahdanau:layer_0/cell/input_kernel_context": (
          (6, 3, 4), ("memory", "gates", "hidden"), (True, False, False)),
      "bahdanau:dense/kernel_context": ((6, 3), ("memory", "mlp"), two),
      "bahdanau:dense/kernel_embed": ((6, 3), ("embed", "mlp"), two),
      # Both dimensions are contracted: by the kernel, and with the state.
      "luong:attention/key/kernel": ((6, 4), ("memory", "hidden"), (True, True)),
      "luong:attention/combine/kernel": ((4, 4), ("hidden", "hidden"), two),
      "luong:attention/combine/kernel_context": ((6, 4), ("memory", "hidden"), two),
      "luong:layer_0/cell/input_kernel_feed": (
          (4, 4, 4), ("hidden", "gates", "hidden"), (True, False, False)),
      "luong:layer_1/bridge_c/kernel": ((6, 4), ("memory", "hidden"), two),
      "luong:encoder/layer_0/backward/input_kernel": (
          (6, 4, 3), ("embed", "gates", "hidden"), (True, False, False))}.items():
    assert shown[name] == want, name


@pytest.mark.parametrize("name", [
    "bahdanau", pytest.param("luong", marks=pytest.mark.long),
    pytest.param("concat_coverage", marks=pytest.mark.long)])
def test_growing_every_width_keeps_the_logits(name):
  old, module, params = built(name, hidden_widths=())
  size = {"hidden_width": 8, "embed_width": 2 * old.embed_width}
  size |= {"encoder_width": 9} if old.bridge != "none" else {}
  size |= {"attention_width": 7} if old.encoder_attention != "general" else {}
  size |= {"dense_width": 4} if old.dense_width else {}
  new, plan = structure.grow(old, **size)
  grown = registry.build(new)
  source = sources.from_tree({
      name: tree.Axes(jnp.asarray(params[name]), names=spec.axes, reads=tuple(
          axis for axis, reads in zip(spec.axes, spec.reads) if reads))
      for name, spec in registry.specs(module).items()})
  rows = resolve.resolve(
      plan, {"": source.specs}, registry.specs(grown), {}, {
          "": registry.constants(old), resolve.TARGET: registry.constants(new)})
  wide = restore.restore(rows, {"": source}, lambda names: {})

  want = apply(module, params, INPUTS, **READ)
  assert distance(apply(grown, wide, INPUTS, **READ), want) < 1e-5
  assert sum(x.size for x in wide.values()) > 2 * sum(x.size for x in params.values())


def test_growing_is_refused_where_no_leaf_could_keep_the_scores():
  old = dataclasses.replace(BASE, **VARIANTS["dot"])
  new, plan = structure.grow(old, hidden_width=8)
  specs = [registry.specs(registry.build(model)) for model in (old, new)]

  with pytest.raises(resolve.PlanError, match="'dot' or 'sum' contracts `hidden`"):
    resolve.resolve(plan, {"": specs[0]}, specs[1], {}, {
        "": registry.constants(old), resolve.TARGET: registry.constants(new)})


@pytest.mark.parametrize("fields, message", [
    ({"encoder": False, "encoder_attention": "dot"},
     "model.encoder_attention is dot, must be none without an encoder"),
    ({"encoder_attention": "dot", "bridge": "linear", "encoder_width": 3},
     "must be another one than dot, .* returns 3 features and the last layer 4"),
    ({"encoder_attention": "sum", "bridge": "linear", "encoder_width": 3},
     "must be another one than sum, .* returns 3 features and the last layer 4"),
    ({"encoder_attention": "sum", "attention_factor": True},
     "attention_factor is True, must be False: only the scores dot and general"),
    ({"encoder_attention": "luong"}, "model.encoder_attention is 'luong', must be one"),
    ({"encoder_attention": "general", "attention_width": 3}, "attention_width is 3"),
    ({"encoder_attention": "general", "attention_bias": "key"},
     "attention_bias is key, must be none: .* adds the same to every score"),
    ({"encoder_attention": "general", "coverage": True}, "coverage is True, must be F"),
    ({"encoder_attention": "concat", "attention_output": "state"},
     "attention_output is state, must be another one"),
    ({"attention_output": "context"}, "attention_output is context, must be hidden"),
    ({"encoder_attention": "concat", "attention_output": "embed", "embed_width": 0},
     "must be another one than embed without an embedding"),
    ({"encoder_attention": "additive", "input_feeding": True},
     "input_feeding is True, must be False: it feeds"),
    ({"encoder_width": 3}, "encoder_width is 3, must be 0 without a bridge"),
    ({"encoder": False, "bridge": "tanh"}, "bridge is tanh, must be none without"),
    ({"encoder_attention": "dot", "attention": True},
     "attention is True, must be False behind an encoder"),
    ({"attention_width": -1}, "model.attention_width is -1, must be a whole number")])
def test_fields_that_do_not_go_together_are_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(BASE, **fields)))


def test_rows_of_several_documents_are_refused():
  _, module, params = built("luong")

  with pytest.raises(errors.UserError, match="rows hold several documents"):
    module.apply({"params": tree.unflatten(params)}, INPUTS, **READ,
                 positions=np.zeros_like(INPUTS))
