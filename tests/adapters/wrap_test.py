"""Tests for adapted models: logits, cost, merging, several devices and errors."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests import comparing
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import merge
from transfer_gen.adapters import scales
from transfer_gen.adapters import wrap as adapters
from transfer_gen.config import codec
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import groups as groups_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

LoRA, Rule = config.LoRA, plan_lib.Rule
DECODER = config.Decoder(
    vocab_size=31, num_layers=3, width=16, num_heads=4, num_kv_heads=2, mlp_width=24,
    max_length=32, position="rotary", tied=False)
LSTM = config.Recurrent(
    vocab_size=31, num_layers=2, embed_width=6, hidden_width=8, dense_width=7,
    attention=True)
GRU = config.Recurrent(
    vocab_size=31, cell="gru", reset_after=False, embed_width=0, hidden_width=8)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 7)).astype(np.int32)


def _moved(module, key=0):
  """Returns params whose adapters change the logits, and the model's own specs."""
  specs, own = registry.specs(module), registry.specs(module.module)
  params = registry.fresh(module, jax.random.key(key))(specs)
  generator = np.random.default_rng(key)
  return {name: np.asarray(value) + (name not in own) * np.float32(
      0.2 * generator.standard_normal(value.shape)) for name, value in params.items()
         }, own


def _logits(module, params):
  return np.asarray(_apply(module, params))


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, params):
  return module.apply({"params": tree.unflatten(params)}, TOKENS)


def _near(ours, theirs, within=1e-5):
  assert comparing.distance(ours, theirs) <= within


CASES = {
    "lora": (DECODER, (LoRA(params=".*", rank=3),)),
    "several": (DECODER, (
        LoRA(params=".*/attn/.*", rank=3), config.IA3(),
        LoRA(params="layer_[02]/.*", rank=2, scaling="rslora", name="more"))),
    "dora": (DECODER, (LoRA(params=".*/mlp/.*|head/.*", rank=3, dora=True),)),
    "lstm": (LSTM, (LoRA(params=".*", rank=3),)),
    "gru": (GRU, (LoRA(params=".*", rank=2), LoRA(
        params=".*/recurrent_kernel", rank=1, name="more"))),
}
OTHERS = {
    "prefix": (DECODER, (config.Prefix(length=3),)),
    "bottleneck": (DECODER, (config.Bottleneck(width=4),)),
}


def _some(*default):
  """Returns all cases, marked `long` except for the given ones."""
  return [case if case in default else pytest.param(case, marks=pytest.mark.long)
          for case in [*CASES, *OTHERS]]


@pytest.mark.parametrize("case", _some("several", "lstm")[:len(CASES)])
def test_merging_adapters_keeps_the_logits(case):
  module = adapters.wrap(registry.build(CASES[case][0]), CASES[case][1])
  params, own = _moved(module)

  merged = jax.jit(lambda params: merge.merge(
      params, module.additions[0].adapters, own))(params)

  assert merged.keys() == own.keys()
  _near(_logits(module.module, merged), _logits(module, params))
  plain = _logits(module.module, {name: params[name] for name in own})
  # The adapters matter: dropping them instead of merging them changes the logits.
  assert np.abs(plain - _logits(module, params)).max() > 1e-3


@pytest.mark.parametrize("case", [
    "lstm", *(pytest.param(case, marks=pytest.mark.long)
              for case in ("lora", "several", "gru"))])
def test_adapter_gradients_match_those_through_merged_kernels(case):
  module = adapters.wrap(registry.build(CASES[case][0]), CASES[case][1])
  params, own = _moved(module)
  kept, added = tree.partition(params, own)
  batch = {"inputs": TOKENS, "targets": TOKENS[::-1]}

  def loss(module, change):
    nll = objectives.next_token(module, False)
    return jax.jit(jax.grad(lambda added: nll(change(kept | added), batch, None).sum()))

  beside = loss(module, lambda params: params)(added)

  through = loss(module.module, lambda params: merge.merge(
      params, module.additions[0].adapters, own))(added)
  largest = max(np.abs(value).max() for value in through.values())
  for name, value in through.items():
    np.testing.assert_allclose(
        beside[name], value, atol=5e-5 * largest, err_msg=name)


@pytest.mark.parametrize("case", _some("lstm", "bottleneck"))
def test_fresh_adapters_do_not_change_the_logits(case):
  model, chosen = (CASES | OTHERS)[case]
  module = adapters.wrap(registry.build(model), chosen)
  specs, own = registry.specs(module), registry.specs(module.module)
  made = jax.eval_shape(lambda: module.init(jax.random.key(0), TOKENS)["params"])
  assert tree.specs(made) == specs

  params = registry.fresh(module, jax.random.key(1))(specs)

  plain = registry.fresh(module.module, jax.random.key(1))(own)
  for name in own:
    np.testing.assert_array_equal(params[name], plain[name])
  if case != "prefix":
    _near(_logits(module, params), _logits(module.module, plain), 1e-6)


@pytest.mark.parametrize("case", _some("prefix"))
def test_cached_decoding_with_adapters_matches_the_full_forward_pass(case):
  module = adapters.wrap(
      registry.build((CASES | OTHERS)[case][0]), (CASES | OTHERS)[case][1])
  params, _ = _moved(module)
  extend = jax.jit(functools.partial(
      module.apply, {"params": tree.unflatten(params)}, method="extend"))
  whole = _logits(module, params)

  cache = module.apply({}, 2, 7, method="init_cache")
  first, cache = extend(TOKENS[:, :5], np.array([5, 4], np.int32), cache)
  second, cache = extend(TOKENS[:, 5:6], np.ones(2, np.int32), cache)

  _near(np.asarray(first), whole[[0, 1], [4, 3]])
  _near(np.asarray(second)[0], whole[0, 5])


def test_adapter_dropout_depends_on_its_key():
  module = adapters.wrap(
      registry.build(dataclasses.replace(DECODER, num_layers=1)),
      (LoRA(params=".*/attn/.*", rank=3, dropout=0.5),))
  params, _ = _moved(module)
  nll = jax.jit(objectives.next_token(module, True))
  batch = {"inputs": TOKENS, "targets": TOKENS}

  losses = [
      np.asarray(nll(params, batch, jax.random.key(seed))) for seed in (0, 0, 1)]

  np.testing.assert_array_equal(losses[0], losses[1])
  assert np.abs(losses[0] - losses[2]).max() > 1e-3
  assert scales.has_dropout(module.additions[0].adapters)
  assert not scales.has_dropout(CASES["lora"][1])


def test_without_adapters_the_module_is_returned_unchanged():
  module = registry.build(DECODER)
  assert adapters.wrap(module, ()) is module


def _batch(rows=8, length=8):
  tokens = np.random.default_rng(0).integers(0, 31, (rows, length + 1)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((rows, length), np.float32)}


def _flops(module, learns):
  """Returns the FLOPs of the gradient for the leaves whose names match `learns`."""
  params = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in registry.specs(module).items()}
  nll = objectives.next_token(module, False)
  loss = lambda learning, frozen: nll(
      tree.merge(learning, frozen), _batch(), None).sum()
  split = tree.partition(
      params, [name for name in params if tree.match([learns], name)])
  return jax.jit(jax.grad(loss)).lower(*split).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("model, entries", [
    (config.Decoder(vocab_size=31, num_layers=2, width=64, num_heads=4, max_length=8),
     2 * 12 * 64 * 64),
    (config.Recurrent(vocab_size=31, embed_width=64, hidden_width=64),
     2 * 2 * 4 * 64 * 64)], ids=["decoder", "lstm"])
def test_gradients_of_frozen_kernels_are_not_computed(model, entries):
  module = adapters.wrap(
      registry.build(model), (LoRA(params=r"layer_\d+/.*", rank=2),))

  low, both = (_flops(module, learns) for learns in (
      r".*lora_.", r".*lora_.|layer_\d+/.*kernel"))

  # A gradient of a kernel costs 2 operations per row and entry. XLA counts some
  # elementwise work on top of the products, hence the margin of 10%.
  rows = 8 * 8
  assert 0.99 < (both - low) / (2 * rows * entries) < 1.1


@pytest.mark.parametrize("devices", [
    config.Parallel(fsdp=2, tensor=4), pytest.param(
        config.Parallel(mode="pmap"), marks=pytest.mark.long)], ids=["mesh", "pmap"])
def test_a_training_step_with_adapters_matches_on_several_devices(devices):
  chosen = (LoRA(params=".*", rank=4), config.Prefix(length=2))
  module = adapters.wrap(registry.build(
      dataclasses.replace(DECODER, num_layers=1)), chosen)
  groups = groups_lib.low_rank(chosen, ratio=4.0)
  plan = plan_lib.TransferPlan(rules=(Rule(target=".*", source=None),), groups=groups)
  specs = registry.specs(module)
  optimizer = optim.build(config.Optim(warmup_steps=0), groups, resolve.resolve(
      plan, {}, specs), 100)
  params, own = _moved(module)

  def after(devices):
    runner = parallel.make_runner(devices, specs, 8, 1, optimizer=optimizer,
                             nll_fn=objectives.next_token(module, False))
    state = runner.place(step_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.array, params),
        opt_state=optimizer.extend({}, params, 0)))
    state, _ = runner.step(state, runner.put(_batch()), jax.random.key(0))
    return jax.device_get(runner.fetch(state).params)

  shared, alone = after(devices), after(config.Parallel())

  for name, value in alone.items():
    np.testing.assert_allclose(shared[name], value, atol=1e-5, err_msg=name)
    assert np.array_equal(value, params[name]) == (name in own), name


@pytest.mark.parametrize("chosen, message", [
    ((LoRA(params="layer_0/attn/querry/kernel"),), "matches no kernel. There are"),
    ((LoRA(params=".*"), LoRA(params=".*")), "Two adapters are called 'lora'"),
    ((config.Prefix(params=".*/query/kernel"),), "query/kernel is no kernel of keys"),
    ((LoRA(params=".*"), LoRA(params=".*", dora=True, name="d")),
     "stands before; dora")])
def test_adapters_that_do_not_fit_the_model_are_refused(chosen, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(adapters.wrap(registry.build(DECODER), chosen))


def test_only_lora_can_adapt_one_of_several_kernels():
  module = adapters.wrap(registry.build(LSTM), (
      config.IA3(params=".*/input_kernel", inputs="head/kernel"),))
  with pytest.raises(errors.UserError, match="LoRA alone can stand"):
    registry.specs(module)


@pytest.mark.parametrize("kind, fields, message", [
    (LoRA, {"rank": 0}, "rank is 0"), (LoRA, {"dropout": 1.0}, "dropout is 1.0"),
    (LoRA, {"scaling": "sqrt"}, "scaling is 'sqrt'"),
    (LoRA, {"name": "a_b"}, "name is"),
    (LoRA, {"params": "("}, "must be text that is a regular"),
    (config.Bottleneck, {"activation": "swish"}, "activation is 'swish'")])
def test_adapter_fields_out_of_range_are_refused(kind, fields, message):
  with pytest.raises(errors.UserError, match=message):
    kind(**{"params": ".*"} | fields)


def test_bottlenecks_and_prefixes_cannot_be_merged():
  for _, chosen in OTHERS.values():
    module = adapters.wrap(registry.build(DECODER), chosen)
    params, own = _moved(module)
    with pytest.raises(errors.UserError, match="cannot be merged"):
      merge.merge(params, chosen, own)


@pytest.mark.parametrize("case", [*CASES, *OTHERS])
def test_adapters_round_trip_through_config_json(case):
  run = config.Run(adapters=(CASES | OTHERS)[case][1])
  assert codec.run_from_json(codec.run_to_json(run)).adapters == run.adapters


@pytest.mark.parametrize("fields", [
    dict(encoder_attention="additive", bridge="tanh", cell="gru",
         attention_output="context"),
    pytest.param(dict(encoder_attention="general", input_feeding=True),
                 marks=pytest.mark.long)], ids=["additive", "general"])
def test_low_rank_inside_the_loop_of_an_attention_equals_merged_kernels(fields):
  model = config.Recurrent(vocab_size=31, num_layers=2, embed_width=6, hidden_width=8,
                           encoder=True, start_token=1, **fields)
  chosen = (LoRA(params=".*kernel", rank=2),)
  params, own = _moved(adapters.wrap(registry.build(model), chosen))
  wrapped, plain = adapters.wrap(registry.build(model), chosen), registry.build(model)
  apply = lambda module, params, *args, **kwargs: module.apply(
      {"params": tree.unflatten(params)}, *args, **kwargs)
  read = {"encoder_inputs": TOKENS[:, :4], "encoder_counts": np.array([4, 2])}

  merged = merge.merge(params, chosen, own)
  want = apply(plain, merged, TOKENS, **read)
  whole = apply(wrapped, params, TOKENS, **read)
  cache = apply(wrapped, params, *read.values(), 7, method="encode")
  last, _ = apply(wrapped, params, TOKENS, np.full(2, 7), cache, method="extend")

  _near(whole, want)
  _near(last, want[:, -1])


@pytest.mark.parametrize("model", [
    config.Recurrent(
        vocab_size=31, cell="gru", num_layers=2, embed_width=6, hidden_width=8,
        encoder=True, latent_width=3),
    config.EncoderDecoder(
        vocab_size=31, num_layers=1, width=8, num_heads=2, max_length=16,
        latent_width=3)], ids=["recurrent", "transformer"])
def test_low_rank_beside_all_kernels_of_a_latent_equals_merged_kernels(model):
  chosen = (LoRA(params="latent/.*kernel.*|.*kernel_latent", rank=2),)
  module = adapters.wrap(registry.build(model), chosen)
  params, own = _moved(module)
  logits = jax.jit(lambda module, params: module.apply(
      {"params": tree.unflatten(params)}, TOKENS, encoder_inputs=TOKENS[:, :4]),
                   static_argnums=0)

  merged = merge.merge(params, chosen, own)

  found = logits(module, params)
  _near(found, logits(registry.build(model), merged))
  changed = {name for name in own if (merged[name] != params[name]).any()}
  assert changed == {name for name in own if "latent" in name and "kernel" in name}
  # Each of them matters, but for the variance, which is not drawn from here.
  for name in changed:
    without = logits(registry.build(model), merged | {name: params[name]})
    assert "log_var" in name or np.abs(found - without).max() > 1e-4, name


def test_other_adapters_than_low_rank_are_refused_inside_the_loop_of_an_attention():
  model = config.Recurrent(vocab_size=31, num_layers=1, embed_width=6, hidden_width=8,
                           encoder=True, encoder_attention="additive")

  for name in ("attention/query/kernel", "attention/combine/kernel"):
    for adapter in (config.IA3(params=name, inputs=name), LoRA(params=name, dora=True),
                    config.Bottleneck(params=name)):
      with pytest.raises(errors.UserError, match=f"{name} is one of several in its"):
        registry.specs(adapters.wrap(registry.build(model), (adapter,)))
