"""Tests for changing the structure of a model: growth, depth, heads and pruning."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests.comparing import distance
from transfer_gen import config
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import axes
from transfer_gen.transfer import importance
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure

On, Rule = plan_lib.On, plan_lib.Rule
ALL = (plan_lib.Group(name="all", params=".*"),)
DECODER = dict(vocab_size=11, num_layers=2, width=12, num_heads=2, max_length=8)
RECURRENT = dict(vocab_size=11, num_layers=2, embed_width=6, hidden_width=5)


def _source(model, seed=0):
  """Returns a module, and a source of random params, because zeros hide mistakes."""
  module = registry.build(model)
  rng, specs = np.random.default_rng(seed), registry.specs(module)
  params = {name: 0.3 * rng.normal(size=spec.shape).astype(np.float32)
            for name, spec in specs.items()}
  return module, sources.Memory(specs, params)


def _transfer(source, old, new, plan):
  module = registry.build(new)
  rows = resolve.resolve(
      plan, {"": source.specs}, registry.specs(module),
      constants={"": registry.constants(old), "target": registry.constants(new)})
  return module, rows, restore.restore(
      rows, {"": source}, registry.fresh(module, jax.random.key(7)))


def _logits(module, params):
  inputs = jnp.array([[1, 5, 2, 9, 4, 0], [3, 3, 7, 10, 1, 8]])
  return np.asarray(_apply(module, tree.unflatten(params), inputs))


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, params, inputs):
  return module.apply({"params": params}, inputs)


def _grown(old, **changes):
  module, source = _source(old)
  new, plan = structure.grow(old, **changes)
  target, rows, params = _transfer(source, old, new, plan)
  before, after = _logits(module, source.arrays), _logits(target, params)
  assert np.std(before) > 0.1  # Constant logits would be easy to keep.
  return distance(after, before), new, rows, params


_long = functools.partial(pytest.param, marks=pytest.mark.long)


@pytest.mark.parametrize("fields, changes", [
    ({}, dict(width=24)),
    _long({}, dict(mlp_width=61)),
    _long({}, dict(num_heads=4)),
    ({}, dict(head_dim=12)),
    ({}, dict(width=36, mlp_width=144, num_heads=6, head_dim=12, num_layers=4)),
    (dict(tied=False, norm="rms", activation="swiglu", bias=False),
     dict(width=24, mlp_width=50, num_heads=6)),
    _long(dict(num_heads=4, num_kv_heads=2), dict(num_heads=8)),
    (dict(num_heads=4, num_kv_heads=2), dict(num_heads=8, num_kv_heads=2)),
    (dict(num_heads=4, num_kv_heads=2), dict(num_heads=8, num_kv_heads=8)),
    _long(dict(position="rotary", num_heads=3), dict(width=24, num_heads=6)),
    (dict(position="sinusoidal", embed_scale=2.0, logit_scale=0.7),
     dict(width=24, mlp_width=100, head_dim=18)),
    (dict(norm_order="post"), dict(width=24, num_heads=4, mlp_width=90)),
    _long(dict(norm_order="post", tied=False), dict(width=24)),
    (dict(query_norm=True, attention_softcap=1.5, block="parallel"),
     dict(width=24, num_heads=4, head_dim=12, mlp_width=50)),
    (dict(position="rotary", norm="rms", norm_offset=1.0, tied=False, windows=(2, 0),
          norm_order="both", activation="geglu", logit_softcap=2.0),
     dict(width=24, num_heads=4)),
    (dict(windows=(2, 0, 3), unbiased=("query", "out")), dict(num_layers=5, width=24)),
])
def test_growing_a_decoder_keeps_its_logits(fields, changes):
  old = config.Decoder(**DECODER | fields)

  difference, new, rows, params = _grown(old, **changes)

  assert difference < 1e-5
  assert all(getattr(new, field) == value for field, value in changes.items())
  assert sum(x.size for x in params.values()) > sum(
      spec.size for spec in registry.specs(registry.build(old)).values())
  assert {row.how for row in rows} <= {"mapped", "copy", "zeros"}


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("changes", [
    _long(dict(hidden_width=15)), _long(dict(embed_width=12)),
    _long(dict(dense_width=9)), dict(hidden_width=10, embed_width=18, dense_width=8)])
def test_growing_a_recurrent_model_keeps_its_logits(cell, changes):
  old = config.Recurrent(**RECURRENT, cell=cell, dense_width=4)

  difference, _, _, _ = _grown(old, **changes)

  assert difference < 1e-5


def test_noise_makes_copies_differ_and_keeps_the_logits():
  old = config.Decoder(**DECODER, mlp_width=20)
  quiet, _, _, same = _grown(old, mlp_width=40)
  noisy, _, _, apart = _grown(old, mlp_width=40, noise=0.5)

  down = lambda params: np.asarray(params["layer_0/mlp/down/kernel"])
  assert quiet < 1e-5 and noisy < 1e-5
  np.testing.assert_array_equal(down(same)[:20], down(same)[20:])
  assert np.abs(down(apart)[:20] - down(apart)[20:]).mean() > 0.05
  np.testing.assert_array_equal(  # Noise is added only to leaves that read the axis.
      apart["layer_0/mlp/up/kernel"], same["layer_0/mlp/up/kernel"])


def test_repeating_without_dividing_changes_the_logits():
  """Shows that the tests of growth can fail: repeating alone is not enough."""
  old = config.Decoder(**DECODER, mlp_width=20)
  module, source = _source(old)
  new = config.Decoder(**DECODER, mlp_width=40)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="mlp", map=axes.Extend(how="repeat")),))

  target, _, params = _transfer(source, old, new, plan)

  assert distance(_logits(module, source.arrays), _logits(target, params)) > 0.1


def _refused(old, new, *maps):
  _, source = _source(old)
  with pytest.raises(resolve.PlanError) as error:
    _transfer(source, old, new, plan_lib.TransferPlan(
        rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL, axes=maps))
  return str(error.value)


@pytest.mark.parametrize("fields, changes, sentence", [
    ({}, dict(width=31), "whole multiples, and 31 is none; the nearest is 36"),
    (dict(head_dim=6), dict(num_heads=3), "and 3 is none; the nearest is 4"),
    (dict(position="rotary"), dict(head_dim=12), "grow `heads`"),
    ({}, dict(width=6), "cannot shrink 12 to 6; Select"),
])
def test_growth_that_would_change_the_function_is_refused(fields, changes, sentence):
  old = config.Decoder(**DECODER | fields)
  module, source = _source(old)
  new, plan = structure.grow(old, **changes)

  with pytest.raises(resolve.PlanError) as error:
    _transfer(source, old, new, plan)

  assert sentence in str(error.value)


@pytest.mark.parametrize("fields, sizes, axis", [
    (dict(norm_offset=1.0), dict(width=24), "embed"),
    (dict(final_norm=False), dict(width=24), "embed"),
    (dict(norm_offset=1.0, query_norm=True), dict(head_dim=12), "kv")])
def test_growth_whose_scale_no_norm_can_absorb_is_refused(fields, sizes, axis):
  with pytest.raises(resolve.PlanError, match=f"contracts `{axis}` after a norm"):
    _grown(config.Decoder(**DECODER | fields), **sizes)


def test_growth_with_inconsistent_constants_is_refused():
  old = config.Decoder(**DECODER)
  grow = On(axis="kv", map=axes.Grow())

  message = _refused(old, config.Decoder(**DECODER, head_dim=12), grow)

  assert "attention_scale is 0.408" in message
  assert "Set model.attention_scale=0.408" in message


def test_approximate_growth_is_noted_in_the_rows():
  old = config.Decoder(**DECODER)
  _, source = _source(old)
  new = config.Decoder(**DECODER | dict(width=18), head_dim=6, mlp_width=48)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="embed", map=axes.Grow(approximate=True)),))

  _, rows, _ = _transfer(source, old, new, plan)

  assert {change.binding.note for row in rows for change in row.changes} == {
      "embed: grown 12 to 18, function changes"}


def test_query_heads_separated_from_their_key_head_are_refused():
  old = config.Decoder(**DECODER | dict(num_heads=4, width=16), num_kv_heads=2)
  new = config.Decoder(
      **DECODER | dict(num_heads=4, width=16), num_kv_heads=2)

  message = _refused(
      old, new, On(axis="heads", map=axes.Select(index=(2, 3, 0, 1))))

  assert ("layer_{0,1}/attn/out/kernel" in message
          and "query head 0 copies head 2, which reads key-value head 1" in message)


def test_permuting_query_and_key_heads_together_keeps_the_logits():
  old = config.Decoder(**DECODER | dict(num_heads=4, width=16), num_kv_heads=2)
  module, source = _source(old)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL, axes=(
          On(axis="heads", map=axes.Select(index=(2, 3, 0, 1))),
          On(axis="kv_heads", map=axes.Select(index=(1, 0)))))

  target, _, params = _transfer(source, old, old, plan)

  assert distance(_logits(module, source.arrays), _logits(target, params)) < 1e-5


def test_mean_groups_averages_the_key_value_heads_of_a_group():
  old = config.Decoder(**DECODER | dict(num_heads=4, width=16))
  _, source = _source(old)
  new = config.Decoder(**DECODER | dict(num_heads=4, width=16), num_kv_heads=2)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="kv_heads", map=axes.MeanGroups()),))

  _, _, params = _transfer(source, old, new, plan)

  name = "layer_1/attn/value/kernel"
  heads = np.asarray(source.arrays[name], np.float64)
  np.testing.assert_allclose(
      params[name], heads.reshape(16, 2, 2, 4).mean(2), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("how, target, expected", [
    ("first", 3, (0, 1, 2)), ("last", 3, (3, 4, 5)), ("spread", 3, (0, 3, 5)),
    ("spread", 2, (0, 5)), ("stack", 8, (0, 1, 2, 3, 4, 5, 0, 1)),
    ("repeat", 12, (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)),
    ("interpolate", 11, (0, (0, 1), 1, (1, 2), 2, (2, 3), 3, (3, 4), 4, (4, 5), 5)),
])
def test_layer_map_returns_the_documented_source_layers(how, target, expected):
  assert structure.layer_map(6, target, how) == dict(enumerate(expected))


@pytest.mark.parametrize("arguments, message", [
    ((4, 6, "first"), "no first 6 of 4 layers"), ((4, 2, "middle"), "how is 'middle'"),
    ((0, 2, "stack"), "must be > 0")])
def test_invalid_layer_map_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    structure.layer_map(*arguments)


def test_layers_are_copied_according_to_the_layer_map():
  old = config.Decoder(**DECODER | dict(num_layers=4))
  new = config.Decoder(**DECODER | dict(num_layers=3))
  _, source = _source(old)
  layers = {0: 2, 1: (0, 3), 2: None}
  plan = plan_lib.TransferPlan(
      rules=(*structure.depth(layers), Rule(target="(.*)", source=r"\1")),
      groups=ALL, unused_source=structure.unused_layers(layers, 4))

  _, rows, params = _transfer(source, old, new, plan)

  name = "layer_{}/mlp/up/kernel"
  read = lambda i: np.asarray(source.arrays[name.format(i)])
  np.testing.assert_array_equal(params[name.format(0)], read(2))
  np.testing.assert_allclose(
      params[name.format(1)], (read(0) + read(3)) / 2, rtol=1e-6, atol=1e-7)
  by_name = {row.name: row for row in rows}
  assert by_name[name.format(1)].how == "mean"
  assert by_name[name.format(1)].sources == ("layer_0/mlp/up/kernel",
                                             "layer_3/mlp/up/kernel")
  assert by_name[name.format(2)].how == "init"
  assert plan.unused_source == ("layer_1/.*",)


def test_source_layers_out_of_range_are_refused():
  old = config.Decoder(**DECODER)
  new = config.Decoder(**DECODER | dict(num_layers=4))
  _, source = _source(old)
  plan = plan_lib.TransferPlan(
      rules=(*structure.depth({0: 0, 1: 1, 2: 4, 3: 5}),
             Rule(target="(.*)", source=r"\1")), groups=ALL)

  with pytest.raises(resolve.PlanError) as error:
    _transfer(source, old, new, plan)

  assert "(1 misfit)" in str(error.value)
  assert ("layer_{2,3}/... (16 leaves): rule {2,3} reads layer_{4,5}/..., not in the"
          " checkpoint, which has"
          " only layer_{0,1}." in str(error.value))


@pytest.mark.parametrize("changes, message", [
    (dict(depth=3), "'depth' is no size of a Decoder; its sizes are width"),
    (dict(num_layers=1), "fewer")])
def test_growing_an_unknown_size_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    structure.grow(config.Decoder(**DECODER), **changes)


@pytest.mark.parametrize("model", [
    config.Decoder(**DECODER, norm_order="post"), config.Recurrent(**RECURRENT)])
def test_adding_layers_without_a_residual_stream_is_refused(model):
  with pytest.raises(ValueError, match="norm_order='pre'"):
    structure.grow(model, num_layers=4)


def test_pruning_by_importance_removes_negligible_units():
  """Removing units whose weights were scaled to nearly 0 hardly changes the logits."""
  old = config.Decoder(**DECODER | dict(num_layers=1), mlp_width=30)
  module, source = _source(old)
  tiny = np.random.default_rng(0).permutation(30)[:10]
  for name in ("up/kernel", "up/bias", "down/kernel"):
    leaf = f"layer_0/mlp/{name}"
    dim = source.specs[leaf].axes.index("mlp")
    entries = (slice(None),) * dim + (tiny,)
    source.arrays[leaf][entries] *= 1e-3
  new = config.Decoder(**DECODER | dict(num_layers=1), mlp_width=20)

  chosen = importance.by_weights(source, "mlp", 20)
  plan = plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
      axes=(On(axis="mlp", map=chosen),))
  target, _, params = _transfer(source, old, new, plan)

  assert set(chosen.index) == set(range(30)) - set(tiny.tolist())
  assert distance(_logits(module, source.arrays), _logits(target, params)) < 1e-4
  again = plan_lib.from_json(plan_lib.to_json(plan), plan_lib.arrays(plan))
  np.testing.assert_array_equal(again.axes[0].map.index, chosen.index)


@pytest.mark.parametrize("axis", ["embed", "mlp", "heads"])
def test_importance_adds_the_shares_of_squares_along_one_axis(axis):
  _, source = _source(config.Decoder(**DECODER | dict(num_layers=1)))
  shares = []
  for name, spec in source.specs.items():
    for dim in [dim for dim, other in enumerate(spec.axes) if other == axis]:
      squares = np.moveaxis(np.asarray(source.arrays[name], np.float64) ** 2, dim, 0)
      shares.append(squares.reshape(len(squares), -1).sum(1))
  total = sum(share / share.sum() for share in shares if share.any())
  size = len(total) // 2

  chosen = importance.by_weights(source, axis, size)

  assert list(chosen.index) == sorted(np.argsort(-total, kind="stable")[:size])


def test_importance_over_an_unknown_axis_is_refused():
  _, source = _source(config.Decoder(**DECODER))
  with pytest.raises(ValueError, match=r"axis `mpl` at no sizes"):
    importance.by_weights(source, "mpl", 2)
