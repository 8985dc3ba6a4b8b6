"""Tests for the encoder-decoder; `tests/maps` compares it with other libraries."""

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
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.models import positions
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.transfer import groups as groups_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

BASE = config_lib.EncoderDecoder(
    vocab_size=23, num_layers=2, encoder_layers=1, width=12, num_heads=3, mlp_width=20,
    max_length=16)
T5 = dataclasses.replace(
    BASE, position="relative", relative_buckets=8, relative_distance=20, norm="rms",
    attention_scale=1.0, bias=False, activation="geglu", tied=False, encoder_layers=3)
BART = dataclasses.replace(
    BASE, norm_order="post", embed_norm=True, logit_bias=True, position_offset=2)
MARIAN = dataclasses.replace(
    BASE, norm_order="post", position="sinusoidal", sinusoid_halves=True,
    encoder_vocab_size=11, embed_scale=3.0, encoder_layers=0)
TURNED = dataclasses.replace(
    BASE, head_dim=4, position="rotary", norm_order="both", query_norm=True,
    num_kv_heads=1)
CONFIGS = {"base": BASE, "t5": T5, "bart": BART, "marian": MARIAN, "turned": TURNED}
RNG = np.random.default_rng(0)
SOURCES = RNG.integers(0, 11, (3, 7)).astype(np.int32)
COUNTS = np.array([7, 3, 1], np.int32)
INPUTS = RNG.integers(0, 23, (3, 9)).astype(np.int32)
ALL = pytest.mark.parametrize("name", [
    name if name in ("t5", "bart") else
    pytest.param(name, marks=pytest.mark.long) for name in CONFIGS])


def logits_of(
    config, inputs=INPUTS, encoder_inputs=SOURCES, counts=COUNTS, params=None):
  module, own = random_models.build(config)
  return np.asarray(apply(
      module, params or own, inputs, encoder_inputs=encoder_inputs,
      encoder_counts=counts))


@pytest.mark.parametrize("name", [
    "t5", *(pytest.param(name, marks=pytest.mark.long)
            for name in CONFIGS if name != "t5")])
def test_cached_decoding_matches_the_full_forward_pass(name):
  module, params = random_models.build(CONFIGS[name])
  whole, rows = logits_of(CONFIGS[name]), np.arange(3)
  counts = np.array([4, 1, 3], np.int32)
  prompts = np.where(np.arange(5)[None] < counts[:, None], INPUTS[:, :5], 0)

  cache = apply(module, params, SOURCES, COUNTS, length=12, method="encode")
  logits, cache = apply(module, params, prompts, counts, cache, method="extend")
  assert distance(logits, whole[rows, counts - 1]) < 1e-5
  for step in range(3):
    logits, cache = apply(
        module, params, INPUTS[rows, counts + step][:, None],
        np.ones(3, np.int32), cache, method="extend")
    assert distance(logits, whole[rows, counts + step]) < 1e-5


@ALL
def test_the_encoder_ignores_padding_and_reads_both_directions(name):
  config, before = CONFIGS[name], logits_of(CONFIGS[name])
  other = np.where(np.arange(7)[None] < COUNTS[:, None], SOURCES, 10 - SOURCES)
  first = np.concatenate([(SOURCES[:, :1] + 1) % 11, SOURCES[:, 1:]], axis=1)

  np.testing.assert_array_equal(logits_of(config, encoder_inputs=other), before)
  alone = logits_of(config, INPUTS[1:2], SOURCES[1:2, :3], COUNTS[1:2])
  assert distance(alone, before[1:2]) < 1e-5
  changed = logits_of(config, encoder_inputs=first)
  assert np.abs(changed - before).max(axis=(1, 2)).min() > 1e-3


@ALL
def test_the_decoder_is_causal(name):
  changed = INPUTS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % 23

  before, after = logits_of(CONFIGS[name]), logits_of(CONFIGS[name], changed)

  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert distance(after[:, 5:], before[:, 5:]) > 1e-3


@pytest.mark.parametrize("name, field, value", [
    ("t5", "relative_distance", 5), ("marian", "sinusoid_halves", False),
    ("turned", "rotary_base", 7.0),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("marian", "embed_scale", 1.0), ("t5", "attention_scale", 0.1),
        ("t5", "logit_scale", 0.2)))])
def test_config_fields_without_params_change_the_logits(name, field, value):
  _, params = random_models.build(CONFIGS[name])

  other = logits_of(
      dataclasses.replace(CONFIGS[name], **{field: value}), params=params)

  assert distance(other, logits_of(CONFIGS[name])) > 1e-3


def test_relative_position_buckets_match_the_t5_definition():
  """The buckets of Raffel et al. (2020), for 8 buckets in each direction.

  Distances 0 to 3 have a bucket each; then come 4-5, 6-8, 9-12, and all larger ones.
  """
  config = dataclasses.replace(T5, relative_buckets=16, relative_distance=18)
  query, keys = jnp.array([[20]]), jnp.arange(41)[None]

  both = np.asarray(positions.buckets(config, query, keys, both_ways=True))[0, 0]
  past = np.asarray(positions.buckets(config, query, keys, both_ways=False))[0, 0]

  want = [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, *[7] * 8]
  np.testing.assert_array_equal(both[20::-1], want)
  np.testing.assert_array_equal(both[21:], 8 + np.array(want[1:]))
  assert (past[20:] == 0).all() and past[12] == 8 and past[0] == 15


@ALL
def test_specs_of_a_deep_model_match_its_params(name):
  config = dataclasses.replace(CONFIGS[name], num_layers=4, encoder_layers=3)
  module = registry.build(config)

  traced = jax.eval_shape(lambda: module.init(
      jax.random.key(0), INPUTS, encoder_inputs=SOURCES)["params"])

  assert list(registry.specs(module).items()) == list(tree.specs(traced).items())
  assert codec.model_from_json(codec.model_to_json(config)) == config
  assert registry.encodes(config) and registry.constants(config)["family"] == (
      "EncoderDecoder")


@pytest.mark.parametrize("fields, message", [
    (dict(windows=(3,)), "model.windows is .3,., must be .. with an encoder"),
    (dict(block="parallel"), "model.block is 'parallel', must be 'serial' with an"),
    (dict(encoder_layers=-1), "encoder_layers is -1, must be a whole number"),
    (dict(encoder_vocab_size=-1), "encoder_vocab_size is -1, must be a whole"),
    (dict(encoder_marks="model"), "encoder_marks is 'model', must be one of none, eos"),
    (dict(position="relative", relative_buckets=5), "relative_buckets is 5, must be e"),
    (dict(position="relative", relative_distance=16), "relative_distance is 16, must"),
], ids=str)
def test_invalid_config_fields_are_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(registry.build(dataclasses.replace(BASE, **fields)))


def test_missing_or_too_long_encoder_inputs_are_refused():
  module, params = random_models.build(BASE)

  with pytest.raises(errors.UserError, match="no encoder_inputs to read"):
    apply(module, params, INPUTS)
  with pytest.raises(errors.UserError, match="17 tokens is longer .*max_length=16"):
    apply(module, params, INPUTS, encoder_inputs=np.zeros((3, 17), np.int32))


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_groups_by_layer_list_the_decoder_before_the_encoder(name):
  config = dataclasses.replace(CONFIGS[name], num_layers=2, encoder_layers=2)
  specs = registry.specs(registry.build(config))

  by_config, by_specs = groups_lib.by_layer(config), groups_lib.by_layer(specs)

  assert by_config == by_specs
  assert [group.name for group in by_config] == [
      "head", "decoder/layer_1", "decoder/layer_0", "encoder/layer_1",
      "encoder/layer_0"] + ["embed"]
  owner = lambda leaf: by_config[tree.match(
      [group.params for group in by_config], leaf)[0]].name
  assert {owner(leaf) for leaf in specs} == {group.name for group in by_config}
  for leaf, group in {
      "encoder/final_norm/scale": "encoder/layer_1", "decoder/final_norm/scale": "head",
      "decoder/layer_0/cross_attn/out/kernel": "decoder/layer_0",
      "head/kernel": "head", "head/bias": "head",
      "embed/embedding": "embed" if name == "t5" else "head",
      "encoder/embed/embedding": "embed", "encoder/relative/embedding": "embed",
      "decoder/position/embedding": "embed", "decoder/embed_norm/scale": "embed",
  }.items():
    assert leaf not in specs or owner(leaf) == group, leaf


def _losses(config, devices, steps=12):
  """Returns the losses of training to reverse the source, and the last state."""
  module = registry.build(config)
  specs = registry.specs(module)
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),),
      groups=(plan_lib.Group(name="all", params=".*"),))
  rows = resolve.resolve(plan, {}, specs)
  optimizer = optim.build(
      config_lib.Optim(warmup_steps=0, lr=0.01), plan.groups, rows, 100)
  state = parallel.step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=registry.fresh(
          module, jax.random.key(1))(specs), opt_state={})
  state = state.replace(opt_state=optimizer.extend({}, state.params, 0))
  runner = parallel.make_runner(
      devices, specs, 16, 1, optimizer=optimizer,
      nll_fn=objectives.next_token(module, False))
  state, losses = runner.place(state), []
  tokens = np.random.default_rng(0).integers(1, 11, (16, 6)).astype(np.int32)
  batch = {"inputs": np.pad(tokens[:, :0:-1], ((0, 0), (1, 0))),
           "targets": tokens[:, ::-1], "weights": np.ones((16, 6), np.float32),
           "encoder_inputs": tokens, "encoder_counts": np.full(16, 6, np.int32)}
  for _ in range(steps):
    state, metrics = runner.step(state, runner.put(batch), jax.random.key(0))
    total, count = jax.device_get(metrics["loss"])
    losses.append(total / count)
  return losses, state


@pytest.mark.parametrize("name", [
    "t5", pytest.param("bart", marks=pytest.mark.long)])
def test_training_losses_decrease_and_match_on_eight_devices(name):
  config = dataclasses.replace(
      CONFIGS[name], vocab_size=24, width=16, num_heads=4, mlp_width=32, num_layers=1,
      encoder_layers=1)

  losses, _ = _losses(config, config_lib.Parallel())
  shared, state = _losses(config, config_lib.Parallel(fsdp=2, tensor=4))

  assert losses[-1] < losses[0] - 0.5
  np.testing.assert_allclose(shared, losses, rtol=1e-5)
  kernel = state.params["decoder/layer_0/cross_attn/query/kernel"]  # f32[16, 4, 4].
  assert kernel.addressable_shards[0].data.shape == (8, 1, 4)
