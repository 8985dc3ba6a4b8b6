"""The engine on trees that are not ours: a table of axes is all it asks for."""

import flax
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import attention
from transfer_gen.models import registry
from transfer_gen.models import transformer
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import strategies

On, Rule = plan_lib.On, plan_lib.Rule
ALL = (plan_lib.Group(name="all", params=".*"),)
# Axes, and those that a leaf contracts: what it takes to grow with the function kept.
TABLE = {
    "(.*/)?up/kernel": (("embed", "mlp"), ("embed",)), "(.*/)?up/bias": ("mlp",),
    "(.*/)?down/kernel": (("mlp", "embed"), ("mlp",)), "(.*/)?down/bias": ("embed",),
}
WIDER = plan_lib.TransferPlan(
    rules=(Rule(target="(.*)", source=r"\1"),), groups=ALL,
    axes=(On(axis="mlp", map=axes.Grow(noise=0.2)),))


def _moved(plan, arrays, shapes, table=None):
  """The plan's rows, and the arrays that it makes of `arrays`."""
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


def test_a_linen_module_of_the_users():
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


def test_an_nnx_state():
  try:
    from flax import nnx  # pylint: disable=g-import-not-at-top
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


def test_a_plain_dict():
  small = {"up": {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}}
  large = {"up": {"kernel": np.zeros((4, 3)), "bias": np.zeros(3)}}
  large["up"]["kernel"] = jax.ShapeDtypeStruct((4, 6), np.float32)
  large["up"]["bias"] = jax.ShapeDtypeStruct((6,), np.float32)

  _, wider = _moved(WIDER, small, large, TABLE)

  np.testing.assert_array_equal(wider["up/kernel"], np.ones((4, 6), np.float32))


def test_a_leaf_without_axes_is_said():
  with pytest.raises(ValueError, match=r"extra \(2,\): axes missing"):
    sources.from_tree({"extra": np.zeros(2)}, TABLE)


class _EncoderDecoder(nn.Module):
  """A user's own, of our blocks: names as `strategies.encoder_decoder` has them."""
  config: config.Decoder

  @nn.compact
  def __call__(self, x):
    block = lambda name: transformer.Block(self.config, last=False, name=name)
    cross = lambda i: attention.Attention(
        self.config, name=f"decoder/layer_{i}/cross_attn")
    positions, mask = jnp.arange(2)[None], jnp.ones((1, 2, 2), bool)
    for i in range(2):
      x, _ = block(f"encoder/layer_{i}")(x, positions, mask, None, False)
      x, _ = block(f"decoder/layer_{i}")(x, positions, mask, None, False)
      x, _ = cross(i)(x, positions, mask, None)
    return x


def _to_encoder_decoder(**how):
  model = config.Decoder(vocab_size=7, num_layers=2, width=8, num_heads=2)
  module = registry.build(model)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  source = sources.Memory(registry.specs(module), params)
  target = tree.specs(jax.eval_shape(
      _EncoderDecoder(model).init, jax.random.key(0), jnp.zeros((1, 2, 8)))["params"])
  rules = strategies.encoder_decoder(**how)
  plan = plan_lib.TransferPlan(
      rules=tuple(rule for rule in rules if "cross_norm" not in rule.target)[:-1],
      groups=ALL, unused_source=("embed/.*", "position/.*", "final_norm/.*"))
  return {row.name: row for row in resolve.resolve(plan, {"": source.specs}, target)}


def test_a_decoder_becomes_an_encoder_and_a_decoder():
  rows = _to_encoder_decoder(cross="self")

  assert len(rows) == 2 * (16 + 16 + 8)
  for side in ("encoder", "decoder"):
    assert rows[f"{side}/layer_1/mlp/up/kernel"].sources == ("layer_1/mlp/up/kernel",)
  assert rows["decoder/layer_0/cross_attn/query/kernel"].sources == (
      "layer_0/attn/query/kernel",)


def test_cross_attention_may_start_fresh():
  rows = _to_encoder_decoder(cross="fresh")

  assert rows["decoder/layer_0/cross_attn/query/kernel"].how == "init"
  assert rows["decoder/layer_0/attn/query/kernel"].how == "copy"


def test_an_encoder_alone_leaves_the_decoder_fresh():
  rows = _to_encoder_decoder(cross="fresh", decoder=False)

  assert rows["decoder/layer_0/attn/query/kernel"].how == "init"
  assert rows["encoder/layer_0/attn/query/kernel"].how == "copy"
