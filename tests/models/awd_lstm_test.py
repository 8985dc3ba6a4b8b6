"""Tests for AWD-LSTM's dropout and tied output, against float64 NumPy with its masks.

The masks are those that the model draws: they are recorded where it applies them.
"""

import dataclasses

from flax import linen as nn
import jax
import numpy as np
import pytest

from tests import random_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import groups
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import structure

AWD = config_lib.Recurrent(
    vocab_size=11, num_layers=3, embed_width=4, hidden_widths=(6, 5, 4), tied=True,
    recurrent_bias=True, forget_bias=0.0)
RATES = {"embed_dropout": 0.5, "input_dropout": 0.5, "hidden_dropout": 0.4,
         "output_dropout": 0.3, "weight_dropout": 0.6}
INPUTS = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)


def logits_of(params, masks=None):
  """Returns logits by the equations of an LSTM, each factor of `masks` applied."""
  p = {name: np.float64(x) for name, x in params.items()}
  masks = masks or {}
  factor = lambda name: np.float64(masks.get(name, 1.0))
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  words = p["embed/embedding"] * np.reshape(factor("embed_dropout"), (-1, 1))
  x = words[INPUTS]  # [B, T, D]
  for layer in range(3):
    cell = f"layer_{layer}/cell/"
    kernel = p[cell + "recurrent_kernel"] * factor(f"layer_{layer}/cell/weight_dropout")
    x = x * factor(f"layer_{layer}/locked_dropout")
    bias = p[cell + "bias"] + p[cell + "recurrent_bias"]
    h, c, out = 0.0 * x[:, 0, :1] * bias[0], 0.0, []
    for t in range(x.shape[1]):
      i, f, g, o = (x[:, t] @ p[cell + "input_kernel"][:, gate] + bias[gate]
                    + h @ kernel[:, gate] for gate in range(4))
      c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
      h = sigmoid(o) * np.tanh(c)
      out.append(h)
    x = np.stack(out, 1)
  return (x * factor("output_dropout")) @ p["embed/embedding"].T + p["head/bias"]


def trained(config, params, key=0):
  """Returns the logits of a training pass, and the factors that it drew, by path."""
  module, masks = registry.build(config), {}

  def listen(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, nn.Dropout) and context.module.rate:
      kept, shared = np.asarray(out) != 0, context.module.broadcast_dims
      # A value that was 0 before shows nothing of its mask; its neighbours do.
      mask = (kept.any(shared, keepdims=True) if shared else kept) / (
          1 - context.module.rate)
      np.testing.assert_allclose(out, args[0] * mask, rtol=1e-6)
      masks["/".join(context.module.path)] = mask
    return out

  with nn.intercept_methods(listen):
    logits = module.apply({"params": tree.unflatten(params)}, INPUTS, train=True,
                          rngs={"dropout": jax.random.key(key)})
  # Layers are time-major inside, and the masks of the reference are not.
  return logits, {name: mask.swapaxes(0, 1) if "locked" in name else mask
                  for name, mask in masks.items()}


def test_a_tied_output_reads_the_table_and_adds_its_own_bias():
  module, params = random_models.build(AWD)

  assert "head/kernel" not in params and params["head/bias"].shape == (11,)
  assert distance(apply(module, params, INPUTS), logits_of(params)) < 1e-5


def test_cached_decoding_of_a_tied_model_matches_the_full_pass():
  module, params = random_models.build(AWD)
  counts = np.array([4, 1, 6], np.int32)
  prompts = np.where(np.arange(6) < counts[:, None], INPUTS[:, :6], 0)

  logits, _ = apply(
      module, params, prompts, counts, module.init_cache(3, 9), method="extend")

  assert distance(logits, logits_of(params)[np.arange(3), counts - 1]) < 1e-5


def test_training_matches_a_float64_reference_with_the_masks_that_were_drawn():
  config = dataclasses.replace(AWD, **RATES)
  _, params = random_models.build(config)

  logits, masks = trained(config, params)

  assert all((mask == 0).any() for mask in masks.values()) and len(masks) == 8
  assert distance(logits, logits_of(params, masks)) < 1e-5
  for name in masks:  # Each of them matters.
    others = {other: mask for other, mask in masks.items() if other != name}
    assert distance(logits, logits_of(params, others)) > 1e-4, name


@pytest.mark.parametrize("name, modules", [
    ("embed_dropout", {"embed_dropout"}), ("output_dropout", {"output_dropout"}),
    ("input_dropout", {"layer_0/locked_dropout"}),
    ("hidden_dropout", {"layer_1/locked_dropout", "layer_2/locked_dropout"}),
    ("weight_dropout", {f"layer_{i}/cell/weight_dropout" for i in range(3)})])
def test_each_rate_acts_where_its_field_says_and_nowhere_else(name, modules):
  module, acting = registry.build(dataclasses.replace(AWD, **{name: 0.5})), set()

  def listen(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.rate:
      acting.add("/".join(context.module.path))
    return call(*args, **kwargs)

  with nn.intercept_methods(listen):
    jax.eval_shape(lambda key: module.init_with_output(
        {"params": key, "dropout": key}, INPUTS, train=True), jax.random.key(0))

  assert acting == modules


def test_locked_masks_are_the_same_at_all_positions_and_differ_by_row():
  config = dataclasses.replace(AWD, **RATES)
  _, params = random_models.build(config)

  _, masks = trained(config, params, key=3)

  for name in ("layer_0/locked_dropout", "layer_1/locked_dropout", "output_dropout"):
    # `trained` has compared the values at all positions with this one mask.
    assert masks[name].shape[:2] == (3, 1) and (masks[name] != masks[name][:1]).any()
  assert masks["embed_dropout"].shape == (11,)
  assert masks["layer_1/cell/weight_dropout"].shape == (5, 4, 5)


def test_rates_of_dropout_are_found_in_every_model():
  assert config_lib.dropouts(AWD) == {}
  assert config_lib.dropouts(dataclasses.replace(AWD, **RATES)) == RATES
  assert config_lib.dropouts(config_lib.Decoder(dropout=0.1)) == {"dropout": 0.1}


def test_evaluation_ignores_every_rate():
  config = dataclasses.replace(AWD, **RATES)
  module, params = random_models.build(config)

  assert distance(apply(module, params, INPUTS), logits_of(params)) < 1e-5


@pytest.mark.parametrize("changes", [
    dict(hidden_widths=(6, 5, 3)), dict(embed_width=0),
    dict(attention=True), dict(dense_width=5)])
def test_a_tied_output_of_another_width_is_refused(changes):
  with pytest.raises(errors.UserError, match="tied is True, must be False, or the out"):
    registry.specs(registry.build(dataclasses.replace(AWD, **changes)))


def test_groups_of_a_tied_model_begin_with_the_table():
  names = [group.name for group in groups.by_layer(AWD)]

  assert names == ["head", "layer_2", "layer_1", "layer_0"]
  rows = {name: next(g.name for g in groups.by_layer(AWD)
                     if tree.match([g.params], name))
          for name in registry.specs(registry.build(AWD))}
  assert rows["embed/embedding"] == rows["head/bias"] == "head"


def test_growing_what_a_tied_table_contracts_is_refused():
  small = dataclasses.replace(AWD, hidden_widths=(), hidden_width=4)
  grown, plan = structure.grow(small, embed_width=8, hidden_width=8)
  specs = {name: registry.specs(registry.build(m))
           for name, m in (("small", small), ("grown", grown))}

  with pytest.raises(resolve.PlanError, match="a recurrent model with a tied table"):
    resolve.resolve(
        plan, {"": specs["small"]}, specs["grown"], {},
        {"": registry.constants(small), resolve.TARGET: registry.constants(grown)})
  assert isinstance(plan, plan_lib.TransferPlan)
