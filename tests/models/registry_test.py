"""Tests for the modules, specs and initial params of a model config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import registry

CONFIG = config_lib.Decoder(vocab_size=11, num_layers=2, width=8, num_heads=2)


def test_param_names_and_axes_are_as_documented():
  specs = registry.specs(registry.build(dataclasses.replace(
      CONFIG, activation="swiglu", tied=False, norm="rms", num_layers=1)))

  blocks = {name: spec.axes for name, spec in specs.items() if "bias" not in name}
  assert blocks == {
      "embed/embedding": ("vocab", "embed"),
      "position/embedding": ("position", "embed"),
      "layer_0/attn_norm/scale": ("embed",),
      "layer_0/attn/query/kernel": ("embed", "heads", "kv"),
      "layer_0/attn/key/kernel": ("embed", "kv_heads", "kv"),
      "layer_0/attn/value/kernel": ("embed", "kv_heads", "kv"),
      "layer_0/attn/out/kernel": ("heads", "kv", "embed"),
      "layer_0/mlp_norm/scale": ("embed",),
      "layer_0/mlp/up/kernel": ("embed", "mlp"),
      "layer_0/mlp/gate/kernel": ("embed", "mlp"),
      "layer_0/mlp/down/kernel": ("mlp", "embed"),
      "final_norm/scale": ("embed",),
      "head/kernel": ("embed", "vocab")}


def test_the_norm_before_a_tied_output_reads_the_embed_axis():
  def readers(**fields):
    specs = registry.specs(registry.build(dataclasses.replace(CONFIG, **fields)))
    return {name for name, spec in specs.items() if spec.reads == (True,)}

  assert readers() == {"final_norm/scale", "final_norm/bias"}
  assert readers(tied=False) == set()
  assert readers(norm_order="post") == {
      "layer_1/mlp_norm/scale", "layer_1/mlp_norm/bias"}


def test_specs_of_a_deep_model_match_its_params():
  for fields in ({}, {"norm_order": "post"}, {"windows": (3, 0), "query_norm": True}):
    module = registry.build(dataclasses.replace(CONFIG, num_layers=11, **fields))

    params = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))

    assert list(registry.specs(module).items()) == list(
        tree.specs(params["params"]).items())


def test_a_query_norm_reads_kv_instead_of_the_query_kernel():
  specs = registry.specs(registry.build(dataclasses.replace(CONFIG, query_norm=True)))

  assert specs["layer_0/attn/query_norm/scale"].axes == ("kv",)
  assert specs["layer_0/attn/query_norm/scale"].reads == (True,)
  assert specs["layer_0/attn/key_norm/scale"].reads == (False,)
  assert specs["layer_0/attn/query/kernel"].reads == (True, False, False)


def test_constants_include_every_field_that_affects_the_output():
  default = registry.constants(CONFIG)

  for field, value in (
      ("windows", (3,)), ("block", "parallel"), ("norm_offset", 1.0),
      ("final_norm", False), ("query_norm", True), ("attention_softcap", 2.0),
      ("logit_softcap", 2.0), ("position_offset", 2), ("position", "rotary"),
      ("norm_order", "both")):
    changed = registry.constants(dataclasses.replace(CONFIG, **{field: value}))
    assert changed[field] != default[field]
  rotary = registry.constants(dataclasses.replace(
      CONFIG, position="rotary", rotary_dim=2, rotary_scaling="yarn",
      rotary_length=9))
  assert (rotary["rotary_dim"], rotary["rotary_scaling"]) == (2, "yarn")


def test_the_query_kernel_reads_kv_and_the_key_kernel_does_not():
  specs = registry.specs(registry.build(CONFIG))

  assert specs["layer_0/attn/query/kernel"].reads == (True, False, True)
  assert specs["layer_0/attn/query/bias"].reads == (False, True)
  assert specs["layer_0/attn/key/kernel"].reads == (True, False, False)


def test_fresh_returns_the_requested_leaves_deterministically():
  module = registry.build(CONFIG)
  fresh = registry.fresh(module, jax.random.key(3))

  every, some = fresh(registry.specs(module)), fresh(["layer_1/mlp/up/kernel"])

  assert list(some) == ["layer_1/mlp/up/kernel"]
  np.testing.assert_array_equal(
      some["layer_1/mlp/up/kernel"], every["layer_1/mlp/up/kernel"])
  assert not np.array_equal(
      every["layer_0/mlp/up/kernel"], every["layer_1/mlp/up/kernel"])
  assert fresh([]) == {}
  specs = registry.specs(module)
  assert {name: x.shape for name, x in every.items()} == {
      name: spec.shape for name, spec in specs.items()}


def test_fresh_computes_only_the_leaves_that_it_returns():
  module = registry.build(CONFIG)

  def flops(names):
    fresh = jax.jit(lambda key: registry.fresh(module, key)(names))
    cost = fresh.lower(jax.random.key(0)).compile().cost_analysis()
    return cost.get("flops", 0.0)

  every = flops(registry.specs(module))
  # XLA must remove the code of all other leaves. The bias itself costs nothing.
  assert every > 1000
  assert flops(["layer_0/attn/out/bias"]) < 0.01 * every


def test_fresh_places_leaves_in_their_shardings():
  module = registry.build(CONFIG)
  mesh = jax.make_mesh(
      (2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
  name = "layer_0/mlp/up/kernel"

  sharded = registry.fresh(module, jax.random.key(0), {name: sharding})([name])[name]

  assert sharded.sharding == sharding
  np.testing.assert_array_equal(
      sharded, registry.fresh(module, jax.random.key(0))([name])[name])


def test_changing_a_config_after_build_does_not_affect_the_module():
  config = dataclasses.replace(CONFIG)
  module = registry.build(config)
  config.num_layers = 5

  assert module.config.num_layers == 2


def test_lists_and_tuples_in_a_config_are_equivalent():
  listed, tupled = (registry.build(dataclasses.replace(CONFIG, windows=windows))
                    for windows in ([3, 0], (3, 0)))

  assert listed == tupled
  assert registry.specs(listed) == registry.specs(tupled)


def test_numpy_and_jax_scalars_are_accepted_as_numbers():
  plain, arrays = (
      registry.build(dataclasses.replace(CONFIG, **fields)) for fields in (
          {"embed_scale": 4.0, "num_layers": 2, "windows": (3, 0)},
          {"embed_scale": jnp.sqrt(16.0), "num_layers": np.int64(2),
           "windows": np.array([3, 0])}))

  assert plain == arrays


def test_a_config_field_of_the_wrong_type_is_refused_by_name():
  for field, value, says in (
      ("windows", ("a",), r"model.windows\[0\] is 'a', must be a whole number"),
      ("windows", 3, "must be a tuple"), ("width", 8.5, "must be a whole number"),
      ("norm", 1, "model.norm is 1, must be one of layer, rms"),
      ("tied", "no", "True or False"),
      ("dropout", None, "must be a number")):
    with pytest.raises(errors.UserError, match=says):
      registry.build(dataclasses.replace(CONFIG, **{field: value}))


def test_specs_are_returned_as_a_new_dict_on_every_call():
  module = registry.build(CONFIG)
  registry.specs(module).clear()

  assert "embed/embedding" in registry.specs(module)


def test_the_init_field_changes_the_spread_of_the_kernels():
  def kernel(init):
    module = registry.build(dataclasses.replace(CONFIG, init=init))
    name = "layer_0/mlp/up/kernel"
    return float(np.std(registry.fresh(module, jax.random.key(0))([name])[name]))

  spreads = [kernel(init) for init in ("he_normal", "lecun_normal", "truncated_normal")]
  assert len(set(np.round(spreads, 3))) == 3


def test_a_config_that_is_not_a_model_is_refused():
  with pytest.raises(errors.UserError, match="is a Data, must be one of Decoder"):
    registry.build(config_lib.Data())
