"""Tests for teachers of each family: what a model learns from them, in float64 NumPy.

Predictions and hidden states of the reference come step by step out of the caches with
which texts are written, or for drawings out of loops in NumPy.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import sketch_test
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.distill import loss
from transfer_gen.distill import matching
from transfer_gen.distill import open_teacher
from transfer_gen.distill import student as student_lib
from transfer_gen.models import registry
from transfer_gen.train import combined

Recurrent, Term = config_lib.Recurrent, config_lib.Term
V, B, T = 9, 2, 5
TEMPERATURE = 2.0
ATTENTION = Recurrent(
    vocab_size=V, num_layers=2, embed_width=6, hidden_width=4, encoder=True,
    bidirectional=True, encoder_attention="general", input_feeding=True)
BAHDANAU = Recurrent(
    vocab_size=V, cell="gru", num_layers=1, embed_width=5, hidden_width=6, encoder=True,
    encoder_attention="additive", attention_output="embed")
LATENT = Recurrent(vocab_size=V, num_layers=2, embed_width=6, hidden_width=4,
                   encoder=True, latent_width=3)
PAIR = Recurrent(
    vocab_size=V, num_layers=1, embed_width=5, hidden_width=6, encoder=True)
AWD = Recurrent(
    vocab_size=V, num_layers=3, embed_width=4, hidden_widths=(7, 7, 4), tied=True,
    embed_dropout=0.3, input_dropout=0.3, hidden_dropout=0.3, output_dropout=0.3,
    weight_dropout=0.5)
GRU = Recurrent(vocab_size=V, cell="gru", num_layers=2, embed_width=5, hidden_width=6)
# Teacher, student, and the pairs of layers that are matched by default.
TEACHERS = {
    "attention": (ATTENTION, BAHDANAU, ((0, 1),)),
    "latent": (LATENT, PAIR, ((0, 1),)),
    "latent_of_both": (LATENT, LATENT, ((0, 0), (1, 1))),
    "awd_lstm": (AWD, GRU, ((0, 0), (1, 2))),
}


def _batch(encodes):
  generator = np.random.default_rng(0)
  draw = lambda *shape: generator.integers(0, V, shape).astype(np.int32)
  batch = {"inputs": draw(B, T), "targets": draw(B, T),
           "weights": np.ones((B, T), np.float32)}
  return batch | ({"encoder_inputs": draw(B, 4),
                   "encoder_counts": np.array([4, 2], np.int32)} if encodes else {})


def _params(module, key):
  generator = np.random.default_rng(key)
  return {name: 0.5 * generator.normal(size=spec.shape).astype(np.float32)
          for name, spec in registry.specs(module).items()}


def _opened(theirs, own, size=V, scales=(), **fields):
  """The teacher of a run, and the module of its student."""
  tokenizers = [types.SimpleNamespace(scale=scale, size=size) for scale in scales]
  source = types.SimpleNamespace(
      path="teacher", model=theirs, adapters=(), vocabulary=None,
      tokenizer=tokenizers[0] if scales else None)
  data = types.SimpleNamespace(lengths=(T,), tokenizer=(
      tokenizers[1] if scales else types.SimpleNamespace(size=size)))
  teacher = open_teacher.build(
      config_lib.Distill(temperature=TEMPERATURE, hidden=1.0, **fields), source, own,
      data)
  return teacher, student_lib.extend(registry.build(own), teacher)


def _stepwise(config, params, batch):
  """Logits f64[B, T, V] and h f64[B, T, U] of each layer, token by token."""
  module = registry.build(config)
  apply = jax.jit(functools.partial(module.apply, {"params": tree.unflatten(
      {name: x for name, x in params.items() if "distill" not in name})}),
                  static_argnames=("method", "length"))
  cache = apply(batch["encoder_inputs"], batch["encoder_counts"], length=T,
                method="encode") if config.encoder else module.apply(
                    {}, B, T, method="init_cache")
  logits, hidden = [], []
  for step in range(T):
    found, cache = apply(batch["inputs"][:, step:step + 1], np.ones(B, np.int32), cache,
                         method="extend")
    logits.append(np.float64(found))
    hidden.append([np.float64(cache[f"layer_{i}"][0])
                   for i in range(config.num_layers)])
  return np.stack(logits, 1), [np.stack(layer, 1) for layer in zip(*hidden)]


def _softmax(x):
  powers = np.exp(x - x.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def _softened(theirs, own):
  p, q = (_softmax(logits / TEMPERATURE) for logits in (theirs, own))
  return TEMPERATURE ** 2 * (p * np.log(p / q)).sum(-1)


def _matched(params, pairs, theirs, own):
  found = 0.0
  for mine, other in pairs:
    kernel = params.get(f"distill/layer_{mine}/kernel")
    h = own[mine] if kernel is None else own[mine] @ np.float64(kernel)
    found = found + ((h - theirs[other]) ** 2).mean(-1) / len(pairs)
  return found


@pytest.mark.parametrize("kind", TEACHERS)
def test_what_is_learned_from_a_recurrent_teacher_equals_a_float64_reference(kind):
  theirs, own, pairs = TEACHERS[kind]
  teacher, module = _opened(theirs, own)
  batch, params = _batch(own.encodes), _params(module, 1)
  taught = _params(teacher.module, 2)

  told = jax.jit(teacher.tell)(taught, batch)
  terms = jax.jit(loss.objective(teacher, module, False))(
      params, {**batch, **told}, None)

  assert teacher.hidden == pairs
  assert {f"distill/layer_{i}/kernel" for i, j in pairs
          if own.widths[i] != theirs.widths[j]} == {
              name for name in params if "distill" in name}
  (p, g), (q, h) = (_stepwise(*one, batch) for one in ((theirs, taught), (own, params)))
  np.testing.assert_allclose(terms["logits"], _softened(p, q), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      terms["hidden"], _matched(params, pairs, g, h), rtol=1e-4, atol=1e-5)
  assert terms["logits"].min() > 1e-3 and terms["hidden"].min() > 1e-3


DRAWN = config_lib.Objective(bivariate=Term(), kl=Term())
SMALL = config_lib.Sketch(vocab_size=3, hidden_width=4, encoder_width=3, latent_width=2,
                          mixtures=3, forget_bias=sketch_test.MODEL.forget_bias)


@pytest.mark.parametrize("theirs, pairs", [
    (sketch_test.MODEL, ((0, 0), (1, 1))),
    pytest.param(sketch_test.ALONE, ((1, 0),), marks=pytest.mark.long)])
def test_what_is_learned_from_a_teacher_of_drawings_equals_a_float64_reference(
    theirs, pairs):
  teacher, module = _opened(theirs, SMALL, 3, scales=(2.0, 2.0))
  params = _params(module, 1)
  taught = sketch_test.random_params(theirs)
  batch = sketch_test.batch_of_three()
  del batch["draws"]  # The latent is then its mean.
  inside = (batch["pen_states"] != 2).astype(np.float32)
  batch |= {"targets": batch["pen_states"], "weights": np.ones_like(inside),
            "value_weights": inside}
  key = jax.random.key(5)

  told = jax.jit(teacher.tell)(taught, batch)
  terms = jax.jit(loss.objective(teacher, module, False, terms=DRAWN))(
      params, {**batch, **told}, key)

  assert teacher.hidden == pairs
  (f, g), (q, h) = (sketch_test.by_hand(one, batch) for one in (taught, params))
  samples = np.asarray(matching.mixture_samples(
      jax.random.fold_in(key, loss._SAMPLED),
      {name: jnp.float32(f[name]) for name in matching.MIXTURE}, loss._SAMPLES))
  offsets = np.zeros(inside.shape)
  for row, step in zip(*np.nonzero(inside)):  # Behind its end nothing is drawn.
    offsets[row, step] = np.mean([
        np.log(_density(f, row, step, x) / _density(q, row, step, x))
        for x in samples[:, row, step]])
  np.testing.assert_allclose(
      terms["logits"], _softened(f["pen"], q["pen"]) + offsets, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
      terms["hidden"], _matched(params, pairs, g, h), rtol=1e-4, atol=1e-5)
  assert np.abs(offsets).max() > 0.1


def _density(mixture, row, step, x):
  """Of Graves (2013), equations 24 and 25."""
  logits, means, log_scales, slants = (
      mixture[name][row, step] for name in matching.MIXTURE)
  r = np.tanh(slants)
  z = (x - means) / np.exp(log_scales)
  form = (z ** 2).sum(-1) - 2 * r * z[:, 0] * z[:, 1]
  return (_softmax(logits) * np.exp(-form / (2 * (1 - r ** 2))) / (
      2 * np.pi * np.exp(log_scales.sum(-1)) * np.sqrt(1 - r ** 2))).sum()


def test_the_weight_of_the_data_is_that_of_pens_and_of_offsets():
  found = combined.weights(DRAWN, config_lib.Distill(ce=0.25, logits=0.5))

  assert {name: base for name, (base, _) in found.items()} == {
      "ce": 0.25, "bivariate": 0.25, "logits": 0.5, "kl": 1.0, "anchor": 1.0}


@pytest.mark.parametrize("theirs, own, fields, message", [
    (sketch_test.MODEL, GRU, {}, "only one of both is a model of drawings"),
    (GRU, SMALL, {}, "only one of both is a model of drawings"),
    (sketch_test.MODEL, SMALL, {"vocabularies": "uld"}, "these are drawings"),
    (sketch_test.MODEL, SMALL, {"attention": 1.0}, "between Transformers"),
    (sketch_test.MODEL, SMALL, {"layers": ((2, 0),)}, "below 2 and 2"),
    (sketch_test.MODEL, SMALL, {"scales": (2.0, 3.0)},
     "divided by 2, and those of the run's drawings by 3"),
], ids=range(6))
def test_what_no_model_can_learn_from_a_teacher_of_drawings_is_refused(
    theirs, own, fields, message):
  with pytest.raises(errors.UserError, match=message):
    _opened(theirs, own, 3, **fields)
