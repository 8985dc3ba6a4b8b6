"""Tests for plans that lead to and from autoencoders."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import random_models
from tests.comparing import assert_same_bits
from tests.comparing import distance
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.models import registry
from transfer_gen.transfer import autoencoder
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure

CELLS = dict(vocab_size=11, num_layers=2, embed_width=6, hidden_width=5)
BLOCKS = dict(vocab_size=11, num_layers=2, width=6, num_heads=2, max_length=8)
LSTM = config.Recurrent(**CELLS, encoder=True, latent_width=4)
ADDED = config.EncoderDecoder(**BLOCKS, latent_width=4, latent="added")
PREFIX = dataclasses.replace(ADDED, latent="prefix", latent_prefix=2)
LANGUAGE = {LSTM: config.Recurrent(**CELLS), ADDED: config.Decoder(**BLOCKS)}
BOTH = pytest.mark.parametrize("model", LANGUAGE, ids=["lstm", "transformer"])
ALL = pytest.mark.parametrize(
    "model", [*LANGUAGE, PREFIX], ids=["lstm", "transformer", "prefix"])
INPUTS = np.int32([[1, 5, 2, 9, 4, 0], [3, 3, 7, 10, 1, 8]])
READ = np.int32([[4, 4, 1], [2, 9, 10]])


def source_of(model, seed):
  module, params = random_models.build(model, seed=seed)
  return sources.Memory(registry.specs(module), params)


def transfer(plan, model, old, **given):
  """Returns rows and params of a model out of sources by name, which are all `old`."""
  module = registry.build(model)
  rows = resolve.resolve(
      plan, {name: one.specs for name, one in given.items()}, registry.specs(module),
      constants={"target": registry.constants(model), **dict.fromkeys(
          given, registry.constants(old))})
  return rows, restore.restore(rows, given, registry.fresh(module, jax.random.key(7)))


def logits(model, params, **read):
  return np.asarray(random_models.apply(registry.build(model), params, INPUTS, **read))


def without_latent(params):
  """Params under which the latent says nothing to the decoder."""
  return {name: np.zeros_like(x) if name.startswith("latent/") else x
          for name, x in params.items()}


@BOTH
def test_a_decoder_alone_is_the_language_model_that_it_contains(model):
  source, plan = source_of(model, 0), autoencoder.decoder_of(model)

  rows, params = transfer(plan, LANGUAGE[model], model, **{"": source})

  assert distance(logits(LANGUAGE[model], params), logits(
      model, without_latent(source.arrays), encoder_inputs=READ)) < 1e-5
  assert distance(logits(LANGUAGE[model], params), logits(
      model, source.arrays, encoder_inputs=READ)) > 0.01
  assert {row.how for row in rows} == {"copy"}


@BOTH
def test_both_sides_of_an_autoencoder_begin_as_language_models(model):
  language = LANGUAGE[model]
  given = {"reads": source_of(language, 1), "writes": source_of(language, 2)}
  # A tied table is the decoder's, and the encoder has no output.
  plan = dataclasses.replace(
      autoencoder.from_stacks(model, encoder="reads", decoder="writes"),
      unused_source=("reads:embed/.*" if model is ADDED else "reads:head/.*",))

  rows, params = transfer(plan, model, language, **given)

  assert distance(logits(model, without_latent(params), encoder_inputs=READ), logits(
      language, given["writes"].arrays)) < 1e-5
  own = {name.removeprefix("encoder/"): x for name, x in params.items()
         if name.startswith("encoder/")}
  assert_same_bits(own, {name: given["reads"].arrays[name] for name in own})
  fresh = {row.name for row in rows if not row.sources}
  assert fresh == {name for name in params if "latent" in name}
  if model is LSTM:
    assert not np.asarray(params["layer_0/cell/input_kernel_latent"]).any()


@ALL
def test_an_encoder_alone_becomes_that_of_a_model_of_pairs(model):
  pair, source = dataclasses.replace(model, latent_width=0), source_of(model, 3)

  rows, params = transfer(
      autoencoder.encoder_of(model), pair, model, **{"": source})

  read = {row.name for row in rows if row.sources}
  assert read == {name for name in params if name.startswith("encoder/") or (
      model is not LSTM and name.startswith("embed/"))}
  assert_same_bits({name: params[name] for name in read},
                   {name: source.arrays[name] for name in read})


@ALL
@pytest.mark.parametrize("draws", [True, False])
def test_a_grown_latent_keeps_the_mean_and_the_logits(model, draws):
  old = dataclasses.replace(model, variational=draws)
  source = source_of(old, 4)

  new, plan = structure.grow(old, latent_width=6)
  rows, params = transfer(plan, new, old, **{"": source})

  assert distance(logits(new, params, encoder_inputs=READ),
                  logits(old, source.arrays, encoder_inputs=READ)) < 1e-5
  assert {row.how for row in rows} == {"mapped", "copy"}
  if draws:  # What is new is a draw of the prior, which costs nothing.
    assert not np.asarray(params["latent/log_var/bias"])[4:].any()
    assert not np.asarray(params["latent/mean/bias"])[4:].any()


def test_a_wider_autoencoder_keeps_the_logits():
  for old, sizes in ((LSTM, dict(hidden_width=10, embed_width=12)),
                     (ADDED, dict(width=12)), (PREFIX, dict(width=12))):
    source = source_of(old, 5)

    new, plan = structure.grow(old, **sizes)
    _, params = transfer(plan, new, old, **{"": source})

    assert distance(logits(new, params, encoder_inputs=READ),
                    logits(old, source.arrays, encoder_inputs=READ)) < 1e-5


def test_a_latent_of_another_width_is_one_misfit():
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
      groups=(plan_lib.Group(name="all", params=".*"),))
  wider = dataclasses.replace(LSTM, latent_width=6)
  source = source_of(LSTM, 0)

  with pytest.raises(resolve.PlanError) as refused:
    transfer(plan, wider, LSTM, **{"": source})
  mapped = dataclasses.replace(
      plan, axes=(plan_lib.On(axis="latent", map=axes.Extend(fresh="zeros")),))

  message = str(refused.value)
  assert "(1 misfit)" in message and "`latent` is 4" in message, message
  assert transfer(mapped, wider, LSTM, **{"": source})[1]


@pytest.mark.parametrize("write, model, message", [
    (autoencoder.from_stacks, config.Recurrent(encoder=True), "has no latent"),
    (autoencoder.decoder_of, config.EncoderDecoder(), "has no latent"),
    (autoencoder.encoder_of, dataclasses.replace(ADDED, shared=True), "same blocks"),
])
def test_a_plan_for_another_model_is_refused(write, model, message):
  with pytest.raises(errors.UserError, match=message):
    write(model)
