"""Tests for the recurrent model against the equations of the papers in float64."""

import dataclasses

from flax import linen as nn
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
from transfer_gen.models import cells
from transfer_gen.models import registry

CLASSIC = config_lib.Recurrent(
    vocab_size=13, num_layers=2, embed_width=6, hidden_width=5, dense_width=7)
INPUTS = np.random.default_rng(0).integers(0, 13, (3, 9)).astype(np.int32)


def logits_of(config, params):
  """Returns the logits by the equations of the papers, one row and step at a time."""
  p = {name: np.float64(x) for name, x in params.items()}
  sigmoid = lambda x: 1 / (1 + np.exp(-x))

  def step(layer, x, h, c):
    w, r, b = (p[f"layer_{layer}/cell/{leaf}"]
               for leaf in ("input_kernel", "recurrent_kernel", "bias"))
    a = [x @ w[:, gate] + b[gate] for gate in range(w.shape[1])]
    r = [h @ r[:, gate] for gate in range(w.shape[1])]
    if config.cell == "rnn":
      return np.tanh(a[0] + r[0]), c
    if config.cell == "lstm":
      i, f, o = (sigmoid(a[k] + r[k] + (k == 1) * config.forget_bias)
                 for k in (0, 1, 3))
      c = f * c + i * np.tanh(a[2] + r[2])
      return o * np.tanh(c), c
    r = [x + y for x, y in zip(r, p[f"layer_{layer}/cell/recurrent_bias"])]
    z = sigmoid(a[1] + r[1])
    n = np.tanh(a[2] + sigmoid(a[0] + r[0]) * r[2])
    return (1 - z) * n + z * h, c

  logits = []
  for row in INPUTS:
    state = np.zeros((config.num_layers, 2, config.hidden_width))
    for token in row:
      x = p["embed/embedding"][token]
      for layer in range(config.num_layers):
        state[layer] = step(layer, x, *state[layer])
        x = state[layer, 0]
      if config.dense_width:
        x = x @ p["dense/kernel"] + p["dense/bias"]
        x = np.maximum(x, 0) if config.dense_activation == "relu" else np.tanh(x)
      logits.append(x @ p["head/kernel"] + p["head/bias"])
  return np.reshape(logits, (*INPUTS.shape, -1))


def plain_unroll(kind, carry, a, kernel, bias, begins=None):
  """Computes `cells.unroll` as a loop that JAX differentiates automatically."""
  def product(h, gates=slice(None)):
    r = jnp.einsum("bu,ugv->gbv", h, kernel[:, gates])
    return r if bias is None else r + bias[gates, None]

  hs = []
  for step, a_t in enumerate(a):
    if begins is not None:
      carry = tuple(state * ~begins[step][:, None] for state in carry)
    r = product(carry[0]) if kind.whole else product
    carry = kind.advance(carry, a_t.swapaxes(0, 1), r)
    hs.append(carry[0])
  return jnp.stack(hs)


@pytest.mark.parametrize("cell", ("rnn", "gru", "lstm"))
@pytest.mark.parametrize("dense", (0, 7))
def test_logits_match_a_float64_reference_of_the_papers(cell, dense):
  config = dataclasses.replace(
      CLASSIC, cell=cell, dense_width=dense, forget_bias=0.7)
  module, params = random_models.build(config)

  logits = apply(module, params, INPUTS)

  assert distance(logits, logits_of(config, params)) < 1e-5


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_gradients_match_automatic_differentiation_of_a_loop(cell):
  kind, rng = cells.KINDS[cell], np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  carry = (draw(3, 5),) * kind.states
  bias = draw(kind.gates, 5) if kind.recurrent_bias else None
  args = (carry, draw(7, 3, kind.gates, 5), draw(5, kind.gates, 5), bias)
  # Random weights of the sum, so that no two steps have the same gradient.
  weights = draw(7, 3, 5)

  def grads(unroll):
    loss = lambda *args: (unroll(kind, *args) * weights).sum()
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*args)

  ours, plain = tree.flatten(grads(cells.unroll)), tree.flatten(grads(plain_unroll))
  assert ours.keys() == plain.keys()
  for name, grad in ours.items():
    assert distance(grad, plain[name]) < 1e-5, name


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gates_and_their_gradients_share_the_memory_of_the_products(cell):
  kind, steps, batch, width = cells.KINDS[cell], 64, 8, 32
  carry = (jnp.zeros((batch, width)),) * kind.states
  shape = (steps, batch, kind.gates, width)

  def loss(x, input_kernel, kernel):
    a = (x @ input_kernel).reshape(shape)
    return (cells.unroll(kind, carry, a, kernel, None) ** 2).sum()

  compiled = jax.jit(jax.grad(loss, (1, 2))).lower(
      jnp.zeros((steps * batch, 3)), jnp.zeros((3, kind.gates * width)),
      jnp.zeros((width, kind.gates, width))).compile()

  # Beside the gates these are the states before and after all steps, gradients, and the
  # states turned around for the kernel's gradient. Gates of their own would add 3 or 4.
  state = steps * batch * width * 4
  assert compiled.memory_analysis().temp_size_in_bytes < 10 * state


@pytest.mark.parametrize("cell, reset_after", [
    ("rnn", True), ("gru", True), ("gru", False), ("lstm", True)])
def test_no_state_and_no_gradient_passes_the_beginning_of_a_document(cell, reset_after):
  kind, rng = cells.kind(cell, reset_after=reset_after), np.random.default_rng(3)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  carry = tuple(draw(3, 5) for _ in range(kind.states))
  bias = draw(kind.gates, 5) if kind.recurrent_bias else None
  args = (carry, draw(5, 3, kind.gates, 5), draw(5, kind.gates, 5), bias)
  weights, begins = draw(5, 3, 5), np.zeros((5, 3), bool)
  # The first row goes on with the state that it is given, the second one begins at
  # once and has a document of one step, and the third one is of one document.
  begins[[2, 0, 3, 4], [0, 1, 1, 1]] = True

  def read(unroll):
    def loss(*args):
      h = unroll(kind, *args, begins)
      return (h * weights).sum(), h
    (_, h), grads = jax.jit(jax.value_and_grad(
        loss, argnums=(0, 1, 2, 3), has_aux=True))(*args)
    return tree.flatten({"h": h, "gradients": grads})

  ours, plain = read(cells.unroll), read(plain_unroll)
  assert ours.keys() == plain.keys()
  for name, value in ours.items():
    assert distance(value, plain[name]) < 1e-5, name


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_model_gradients_match_float64_finite_differences(cell):
  config = dataclasses.replace(CLASSIC, cell=cell, dense_activation="tanh")
  module, params = random_models.build(config)
  rng = np.random.default_rng(2)
  weights = rng.normal(size=(*INPUTS.shape, 13))
  total = lambda params: (apply(module, params, INPUTS) * weights).sum()

  grads = jax.jit(jax.grad(total))(params)

  for name in sorted(params):
    direction = rng.normal(size=params[name].shape)
    up, down = (
        (logits_of(config, {**params, name: params[name] + step}) * weights).sum()
        for step in (1e-5 * direction, -1e-5 * direction))
    slope = (up - down) / 2e-5
    error = np.float64(grads[name] * direction).sum() - slope
    scale = np.linalg.norm(grads[name]) * np.linalg.norm(direction)
    assert abs(error) < 1e-5 * scale, name


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_cached_decoding_matches_the_full_forward_pass(cell):
  module, params = random_models.build(dataclasses.replace(CLASSIC, cell=cell))
  counts = np.array([4, 1, 6], np.int32)
  whole = apply(module, params, INPUTS)
  prompts = np.where(np.arange(6) < counts[:, None], INPUTS[:, :6], 0)

  logits, cache = apply(
      module, params, prompts, counts, module.init_cache(3, 9), method="extend")

  for step in range(3):
    last = counts - 1 + step
    assert distance(logits, whole[np.arange(3), last]) < 1e-5
    tokens = INPUTS[np.arange(3), last + 1][:, None]
    logits, cache = apply(
        module, params, tokens, np.ones(3, np.int32), cache, method="extend")
  np.testing.assert_array_equal(cache["position"], counts + 3)


def test_param_names_axes_and_reads_are_as_documented():
  config = dataclasses.replace(CLASSIC, cell="gru", num_layers=2)

  specs = registry.specs(registry.build(config))

  assert {name: (s.shape, s.axes, s.reads) for name, s in specs.items()} == {
          "embed/embedding": ((13, 6), ("vocab", "embed"), (False, False)),
          **{f"layer_{i}/cell/{leaf}": spec for i in (0, 1) for leaf, spec in {
              "input_kernel": (
                  ((6, 5)[i], 3, 5), (("embed", "hidden")[i], "gates", "hidden"),
                  (True, False, False)),
              "recurrent_kernel": (
                  (5, 3, 5), ("hidden", "gates", "hidden"), (True, False, False)),
              "bias": ((3, 5), ("gates", "hidden"), (False, False)),
              "recurrent_bias": ((3, 5), ("gates", "hidden"), (False, False)),
          }.items()},
          "dense/kernel": ((5, 7), ("hidden", "mlp"), (True, False)),
          "dense/bias": ((7,), ("mlp",), (False,)),
          "head/kernel": ((7, 13), ("mlp", "vocab"), (True, False)),
          "head/bias": ((13,), ("vocab",), (False,)),
      }


def test_without_a_dense_layer_the_head_reads_the_hidden_state():
  specs = registry.specs(registry.build(dataclasses.replace(
      CLASSIC, dense_width=0, cell="rnn")))

  assert "dense/kernel" not in specs
  assert specs["head/kernel"].axes == ("hidden", "vocab")
  assert specs["layer_0/cell/bias"].shape == (1, 5)
  assert "layer_0/cell/recurrent_bias" not in specs


def test_recurrent_kernel_starts_with_orthonormal_rows():
  module = registry.build(CLASSIC)

  params = registry.fresh(module, jax.random.key(3))(registry.specs(module))

  kernel = np.reshape(params["layer_1/cell/recurrent_kernel"], (5, 20))
  np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-5)
  assert not params["layer_1/cell/bias"].any()


def test_dropout_is_applied_only_in_training():
  module, params = random_models.build(dataclasses.replace(CLASSIC, dropout=0.999))
  params["head/bias"] *= 0
  key = {"dropout": jax.random.key(0)}

  dropped = apply(module, params, INPUTS, train=True, rngs=key)

  # At this rate, nearly all inputs of the output layer are dropped.
  assert (dropped == 0).mean() > 0.9
  assert not (apply(module, params, INPUTS) == 0).any()


def test_dropout_is_applied_to_the_input_of_every_layer():
  module, params = random_models.build(dataclasses.replace(CLASSIC, dropout=0.5))
  shapes = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.rate:
      shapes.append(args[0].shape)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    module.apply({"params": tree.unflatten(params)}, INPUTS, train=True,
                 rngs={"dropout": jax.random.key(0)})

  # The inputs of layer_0 and layer_1 (both time-major), of dense and of the head.
  assert shapes == [(9, 3, 6), (9, 3, 5), (3, 9, 5), (3, 9, 7)]


def test_the_model_computes_in_the_configured_dtype():
  module, params = random_models.build(dataclasses.replace(CLASSIC, dtype="bfloat16"))

  logits = apply(module, params, INPUTS)

  assert logits.dtype == jnp.bfloat16
  # bfloat16 has 8 bits of precision, so each operation is off by up to 0.4%.
  assert distance(logits, logits_of(CLASSIC, params)) < 0.05


@pytest.mark.parametrize("fields, message", [
    ({"cell": "ltsm"}, "model.cell is 'ltsm', must be one of rnn, gru, lstm"),
    ({"dense_activation": "swish"}, "model.dense_activation is 'swish'"),
    ({"init": "glorot"}, "model.init is 'glorot'"),
    ({"hidden_width": 0}, "model.hidden_width is 0, must be a whole number"),
    ({"dense_width": -1}, "model.dense_width is -1, must be a whole number"),
    ({"dropout": 1.0}, r"model.dropout is 1.0, must be a number in \[0, 1\)"),
    ({"vocab_size": 0}, "model.vocab_size is 0, must be positive")])
def test_an_invalid_config_field_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(CLASSIC, **fields)))
