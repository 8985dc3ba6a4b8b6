"""Tests that packed documents are computed as if each stood alone, in every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.adapters import wrap
from transfer_gen.config import adapters
from transfer_gen.models import cells
from transfer_gen.models import registry
from transfer_gen.models import statistics
from transfer_gen.models import taps
from transfer_gen.train import objectives

LENGTHS = ((3, 4, 1), (8,), (1, 2, 4))  # Of the documents of each row.
SIZE = 8  # T. The last row ends with padding.


def decoder(**fields):
  return config_lib.Decoder(**{
      "vocab_size": 11, "num_layers": 1, "width": 8, "num_heads": 2,
      "max_length": SIZE, "mlp_width": 8} | fields)


def recurrent(**fields):
  return config_lib.Recurrent(**{
      "vocab_size": 11, "num_layers": 1, "embed_width": 4, "hidden_width": 6} | fields)


MODELS = {
    "learned": decoder(position_offset=2, embed_norm=True),
    "sinusoidal_parallel": decoder(position="sinusoidal", block="parallel"),
    "rotary_windows": decoder(
        position="rotary", num_kv_heads=1, query_norm=True, num_layers=2,
        windows=(3, 0), rotary_base_window=100.0),
    "relative": decoder(
        position="relative", relative_buckets=6, relative_distance=9,
        block="parallel_one_norm"),
    "softcap": decoder(
        position="rotary", attention_softcap=2.0, logit_softcap=3.0, norm_order="both"),
    "rnn": recurrent(cell="rnn", embed_width=0),
    "gru": recurrent(cell="gru", num_layers=2),
    "gru_reset_before": recurrent(cell="gru", reset_after=False),
    "lstm": recurrent(recurrent_bias=True, dense_width=5),
    "attention": recurrent(attention=True, num_layers=2),
    "window": recurrent(window=4, cell="gru"),
    "window_both_ways": recurrent(window=4, bidirectional=True, attention=True),
}
KEYS = ".*/attn/key/kernel"
ADAPTERS = {
    "prefix": (decoder(position="rotary"), adapters.Prefix(length=3, params=KEYS)),
    "lora_lstm": (
        recurrent(), adapters.LoRA(rank=2, params=".*/(input|recurrent)_kernel")),
}


def draw(module):
  rng = np.random.default_rng(0)
  return {name: np.float32(0.4 * rng.normal(size=spec.shape))
          for name, spec in registry.specs(module).items()}


def documents():
  rng = np.random.default_rng(0)
  # Token 0 fills windows, and would not differ from what a window leaves out.
  return [rng.integers(1, 11, size + 1).astype(np.int32)
          for row in LENGTHS for size in row]


def packed():
  """Returns rows as `LENGTHS` says, and i32[B, T], the document of each target."""
  # As many rows as documents, for both layouts to share compiled programs.
  texts = documents()
  batch = {name: np.zeros((len(texts), SIZE), np.int32)
           for name in ("inputs", "targets", "positions")}
  owners, numbered = np.full((len(texts), SIZE), -1), iter(enumerate(texts))
  for row, sizes in enumerate(LENGTHS):
    end = 0
    for size in sizes:
      part, end = slice(end, end + size), end + size
      owners[row, part], tokens = next(numbered)
      batch["inputs"][row, part], batch["targets"][row, part] = tokens[:-1], tokens[1:]
      batch["positions"][row, part] = np.arange(size)
  return {**batch, "weights": np.float32(owners >= 0)}, owners


def alone():
  """Returns the same documents in a row each, padded on the right."""
  texts = documents()
  batch = {name: np.zeros((len(texts), SIZE), np.int32)
           for name in ("inputs", "targets")}
  for row, tokens in enumerate(texts):
    batch["inputs"][row, :len(tokens) - 1] = tokens[:-1]
    batch["targets"][row, :len(tokens) - 1] = tokens[1:]
  counts = np.array([len(tokens) - 1 for tokens in texts])
  return {**batch, "weights": np.float32(np.arange(SIZE)[None] < counts[:, None])}


@functools.partial(jax.jit, static_argnames="module")
def losses(module, params, batch):
  """Returns the losses f32[B, T], and the gradients of their weighted sum."""
  def total(params):
    nll = objectives.next_token(module, False)(params, batch, jax.random.key(0))
    # Weights that differ by token: errors of a gradient cannot cancel.
    return (nll * batch["weights"] * jnp.cos(nll)).sum(), nll
  with jax.default_matmul_precision("highest"):
    grads, nll = jax.grad(total, has_aux=True)(params)
  return nll, grads


def assert_packed_as_alone(module, params):
  """Asserts equal losses and gradients, and other ones where documents are joined."""
  (batch, owners), apart = packed(), alone()
  joined = {name: value for name, value in batch.items() if name != "positions"}

  nll, grads = losses(module, params, batch)
  wanted, wanted_grads = losses(module, params, apart)
  wrong, _ = losses(module, params, joined)

  scale = max(1.0, *(float(np.abs(grad).max()) for grad in wanted_grads.values()))
  for document, row in enumerate(np.asarray(wanted)):
    mine, count = owners == document, int(apart["weights"][document].sum())
    np.testing.assert_allclose(nll[mine], row[:count], rtol=1e-6, atol=1e-6)
    first = mine[:, 0].any()  # Of its row, so that nothing precedes it.
    apart_from_joined = np.abs(wrong[mine] - row[:count]).max()
    assert apart_from_joined < 1e-5 if first else apart_from_joined > 1e-3
  for name, value in wanted_grads.items():
    np.testing.assert_allclose(
        grads[name], value, rtol=0, atol=3e-6 * scale, err_msg=name)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long)
    if name in ("sinusoidal_parallel", "relative", "softcap", "gru_reset_before",
                "attention", "window") else name
    for name in MODELS])
def test_packed_losses_and_gradients_equal_those_of_each_document_alone(name):
  module = registry.build(MODELS[name])
  assert_packed_as_alone(module, draw(module))


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_act_on_packed_documents_as_on_each_alone(name):
  config, adapter = ADAPTERS[name]
  module = wrap.build(config, (adapter,))
  assert_packed_as_alone(module, draw(module))


@pytest.mark.parametrize("name", [
    "gru", pytest.param("rotary_windows", marks=pytest.mark.long)])
def test_a_packed_row_can_be_resumed_from_the_hidden_states_of_a_layer(name):
  module = registry.build(MODELS[name])
  params = draw(module)
  batch, _ = packed()
  variables = {"params": tree.unflatten(params)}
  with taps.listening(hidden=(0,)) as seen:
    wanted = module.apply(variables, batch["inputs"], positions=batch["positions"])

  resumed = taps.resume(module, variables, seen.hidden[0], 1, batch["inputs"],
                        positions=batch["positions"])
  joined = taps.resume(module, variables, seen.hidden[0], 1, batch["inputs"])

  np.testing.assert_allclose(resumed, wanted, atol=1e-6)
  assert np.abs(joined - wanted).max() > 1e-2


def test_statistics_see_documents_as_the_model_does():
  module = registry.build(MODELS["learned"])
  params = draw(module)
  batch, _ = packed()
  full = {name: value[:2] for name, value in batch.items()}  # Rows without padding.
  wanted = [{"inputs": tokens[None, :-1]} for tokens in documents()[:4]]
  sizes = np.array([one["inputs"].shape[1] for one in wanted])

  found = statistics.inputs(module, params, [full], "mlp")

  one_by_one = [statistics.inputs(module, params, [one], "mlp") for one in wanted]
  for name, value in found.items():
    mean = np.average([one[name] for one in one_by_one], axis=0, weights=sizes)
    np.testing.assert_allclose(value, mean, rtol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_state_that_is_given_is_cleared_where_the_first_step_begins(cell):
  rng = np.random.default_rng(0)
  kind = cells.kind(cell)
  a = jnp.asarray(rng.normal(size=(3, 2, kind.gates, 4)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(4, kind.gates, 4)), jnp.float32)
  carry = (jnp.ones((2, 4)),) * kind.states
  begins = jnp.array([[True, False], [False, False], [False, False]])

  found = cells.unroll(kind, carry, a, kernel, None, begins)

  empty = tuple(jnp.zeros_like(state) for state in carry)
  np.testing.assert_allclose(
      found[:, 0], cells.unroll(kind, empty, a, kernel, None)[:, 0], atol=1e-6)
  np.testing.assert_allclose(
      found[:, 1], cells.unroll(kind, carry, a, kernel, None)[:, 1], atol=1e-6)
