"""Tests for transfers of other pytrees, and from a decoder to an encoder-decoder."""

import dataclasses

import flax
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure

On, Rule = plan_lib.On, plan_lib.Rule
ALL = (plan_lib.Group(name="all", params=".*"),)
# The axes of each leaf, and those that it contracts. Growing needs both to keep the
# function.
TABLE = {
    "(.*/)?up/kernel": (("embed", "mlp"), ("embed",)), "(.*/)?up/bias": ("mlp",),
    "(.*/)?down/kernel": (("mlp", "embed"), ("mlp",)), "(.*/)?down/bias": ("embed",),
}
WIDER = plan_lib.TransferPlan(
    rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
    axes=(On(axis="mlp", map=axes.Grow(noise=0.2)),))


def _moved(plan, arrays, shapes, table=None):
  """Returns the rows of a plan, and the arrays that it makes from `arrays`."""
  source, target = sources.from_tree(arrays, table), tree.specs(shapes, table)
  rows = resolve.resolve(plan, {"": source.specs}, target)
  fresh = lambda names: {name: jnp.full(target[name].shape, 0.5) for name in names}
  return rows, restore.restore(rows, {"": source}, fresh)


class _Linen(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(4, name="down")(nn.relu(nn.Dense(self.width, name="up")(x)))


X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def test_a_user_defined_linen_module_can_be_transferred():
  small, large = _Linen(6), _Linen(15)
  params = small.init(jax.random.key(1), X)["params"]

  rows, wider = _moved(
      WIDER, params, jax.eval_shape(large.init, jax.random.key(2), X)["params"], TABLE)

  before, after = small.apply({"params": params}, X), large.apply(
      {"params": tree.unflatten(wider)}, X)
  np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
  assert {row.name: row.how for row in rows} == {
      "up/kernel": "mapped", "up/bias": "mapped", "down/kernel": "mapped",
      "down/bias": "copy"}


def test_an_nnx_state_can_be_transferred():
  try:
    from flax import nnx
  except AttributeError as error:
    pytest.skip(f"flax {flax.__version__}'s NNX needs another jax: {error}")

  class Mlp(nnx.Module):

    def __init__(self, width, rngs):
      self.up = nnx.Linear(4, width, rngs=rngs)
      self.down = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x):
      return self.down(nnx.relu(self.up(x)))

  small, large = Mlp(6, nnx.Rngs(1)), Mlp(15, nnx.Rngs(2))
  before = small(X)
  assert np.abs(large(X) - before).max() > 0.1

  _, wider = _moved(
      WIDER, nnx.to_pure_dict(nnx.state(small)), nnx.to_pure_dict(nnx.state(large)),
      TABLE)
  state = nnx.state(large)
  nnx.replace_by_pure_dict(state, tree.unflatten(wider))
  nnx.update(large, state)

  np.testing.assert_allclose(large(X), before, rtol=1e-5, atol=1e-6)


def test_a_plain_dict_can_be_transferred():
  small = {"up": {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}}
  large = {"up": {"kernel": np.zeros((4, 3)), "bias": np.zeros(3)}}
  large["up"]["kernel"] = jax.ShapeDtypeStruct((4, 6), np.float32)
  large["up"]["bias"] = jax.ShapeDtypeStruct((6,), np.float32)

  _, wider = _moved(WIDER, small, large, TABLE)

  np.testing.assert_array_equal(wider["up/kernel"], np.ones((4, 6), np.float32))


def test_a_leaf_without_axes_is_refused():
  with pytest.raises(ValueError, match=r"extra \(2,\): axes missing"):
    sources.from_tree({"extra": np.zeros(2)}, TABLE)


SIZES = dict(vocab_size=7, num_layers=2, width=8, num_heads=2, max_length=6)
BOTH = config.EncoderDecoder(**SIZES, encoder_layers=1)


def _params(model, key=0):
  """Returns specs and random values, so that no param is 0 or 1."""
  module = registry.build(model)
  specs, rng = registry.specs(module), np.random.default_rng(key)
  return specs, {name: rng.normal(size=spec.shape).astype(np.float32)
                 for name, spec in specs.items()}


def _to_encoder_decoder(unused=(), **how):
  """Transfers a decoder to an encoder-decoder; returns rows, new and old params."""
  source = sources.Memory(*_params(config.Decoder(**SIZES)))
  module = registry.build(BOTH)
  plan = plan_lib.TransferPlan(
      rules=structure.encoder_decoder(**how), groups=ALL, unused_source=unused)
  rows = resolve.resolve(plan, {"": source.specs}, registry.specs(module))
  fresh = registry.fresh(module, jax.random.key(0))
  params = restore.restore(rows, {"": source}, fresh)
  return {row.name: row for row in rows}, params, dict(source.read(list(source.specs)))


def test_a_decoder_can_initialize_an_encoder_decoder():
  rows, params, old = _to_encoder_decoder(cross="self")

  # A block has 16 leaves. Each of the 2 decoder layers adds 8 of cross-attention and 2
  # of its norm. Both sides have a final norm (2) and positions (1); one embedding.
  assert len(rows) == 16 + 2 * (16 + 8 + 2) + 2 * 3 + 1
  for side, layer in (("encoder", 0), ("decoder", 1)):
    name = f"layer_{layer}/mlp/up/kernel"
    np.testing.assert_array_equal(params[f"{side}/{name}"], old[name])
  for ours, theirs in (
      ("layer_1/cross_attn/query/kernel", "layer_1/attn/query/kernel"),
      ("layer_0/cross_norm/scale", "layer_0/attn_norm/scale"),
      ("position/embedding", "position/embedding"),
      ("final_norm/scale", "final_norm/scale")):
    np.testing.assert_array_equal(params[f"decoder/{ours}"], old[theirs])
  np.testing.assert_array_equal(params["embed/embedding"], old["embed/embedding"])
  tokens = jnp.ones((2, 3), jnp.int32)
  logits = registry.build(BOTH).apply(
      {"params": tree.unflatten(params)}, tokens, encoder_inputs=tokens)
  assert np.isfinite(logits).all()


def test_cross_attention_can_start_fresh():
  rows, params, old = _to_encoder_decoder(cross="fresh")

  assert rows["decoder/layer_0/cross_attn/query/kernel"].how == "init"
  assert rows["decoder/layer_0/cross_norm/scale"].how == "init"
  np.testing.assert_array_equal(
      params["decoder/layer_0/attn/query/kernel"], old["layer_0/attn/query/kernel"])
  assert np.abs(params["decoder/layer_0/cross_attn/query/kernel"]).max() < 0.1


def test_initializing_only_the_encoder_leaves_the_decoder_fresh():
  rows, *_ = _to_encoder_decoder(
      unused=("layer_1/.*",), cross="fresh", decoder=False)

  assert rows["decoder/layer_0/attn/query/kernel"].how == "init"
  assert rows["encoder/layer_0/attn/query/kernel"].how == "copy"


@pytest.mark.parametrize("sizes", [
    dict(width=16, mlp_width=40, num_heads=4, num_layers=3, encoder_layers=3),
    pytest.param(dict(num_layers=4), marks=pytest.mark.long),
    pytest.param(dict(head_dim=8, num_heads=4), marks=pytest.mark.long)],
    ids=["all", "deeper", "heads"])
@pytest.mark.parametrize("base", [
    dataclasses.replace(BOTH, num_kv_heads=1, mlp_width=10),
    dataclasses.replace(
        BOTH, position="relative", relative_buckets=4, relative_distance=9, norm="rms",
        embed_norm=True, logit_bias=True, attention_scale=1.0, logit_scale=0.3)],
    ids=["learned", "relative"])
def test_growing_an_encoder_decoder_keeps_its_logits(base, sizes):
  specs, params = _params(base)
  # Norm scales near 1 keep the activations in a range without cancellation.
  params = {name: value if value.ndim > 1 else 1 + 0.1 * value
            for name, value in params.items()}
  grown, plan = structure.grow(base, **sizes)
  large = registry.build(grown)
  source = sources.Memory(specs, params)

  rows = resolve.resolve(
      plan, {"": specs}, registry.specs(large), {}, {
          "": registry.constants(base), resolve.TARGET: registry.constants(grown)})
  more = restore.restore(rows, {"": source}, registry.fresh(large, jax.random.key(1)))

  inputs, read = np.arange(10).reshape(2, 5) % 7, np.arange(12).reshape(2, 6) % 5
  counts = np.array([6, 3])
  before, after = (np.asarray(jax.jit(module.apply)(
      {"params": tree.unflatten(values)}, inputs, encoder_inputs=read,
      encoder_counts=counts))
                   for module, values in (
                       (registry.build(base), params), (large, more)))
  assert sum(value.size for value in more.values()) > (
      sum(value.size for value in params.values()))
  np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
