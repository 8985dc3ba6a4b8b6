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
_OF_LAYERS = ("input_dropout", "hidden_dropout")
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
    x = x * factor(f"layer_{layer}/{'hidden' if layer else 'input'}_dropout")
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
  return logits, {
      name: mask.swapaxes(0, 1) if name.endswith(_OF_LAYERS) else mask
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
    ("input_dropout", {"layer_0/input_dropout"}),
    ("hidden_dropout", {"layer_1/hidden_dropout", "layer_2/hidden_dropout"}),
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

  for name in ("layer_0/input_dropout", "layer_1/hidden_dropout", "output_dropout"):
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


# Models that attend in a loop over time, and one that attends from all steps at once.
ATTENDING = {
    "feeding": dict(encoder_attention="concat", input_feeding=True),
    "additive": dict(encoder_attention="additive", attention_output="state"),
    "at_once": dict(encoder_attention="general")}


def attending(name, **fields):
  return config_lib.Recurrent(
      vocab_size=11, num_layers=2, embed_width=4, hidden_width=4, encoder=True,
      **ATTENDING[name], **fields)


def folded(config, params, read):
  """Returns the logits of a training pass of one row, and params with its factors.

  All masks hold for all positions, and one row has one of each: to drop features is to
  drop rows of the kernel that reads them, and to drop tokens is to drop rows of the
  table.
  """
  module, found, acting = registry.build(config), dict(params), set()
  special = {"layer_0/hidden_dropout": "layer_0/cell/input_kernel_feed"}
  if config.encoder_attention == "additive":
    special = {"layer_0/hidden_dropout": "layer_0/cell/input_kernel_context"}

  def listen(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, nn.Dropout) and context.module.rate:
      path = "/".join(context.module.path)
      place, _, kind = path.rpartition("/")
      mask = np.float32(out != 0) / (1 - context.module.rate)
      if kind == "output_dropout":
        mask = mask[0, 0]
      elif kind.endswith(_OF_LAYERS):
        mask = mask[0].reshape(-1)  # [1, D] outside of loops, and [D, 1] inside.
      leaf = special.get(path) or "/".join(filter(None, (place, {
          "embed_dropout": "embed/embedding", "weight_dropout": "recurrent_kernel",
          "output_dropout": "head/kernel"}.get(kind, "cell/input_kernel"))))
      assert path not in acting
      acting.add(path)
      found[leaf] = found[leaf] * mask.reshape(
          mask.shape + (1,) * (found[leaf].ndim - mask.ndim))
    return out

  with nn.intercept_methods(listen):
    logits = module.apply({"params": tree.unflatten(params)}, INPUTS[:1], train=True,
                          rngs={"dropout": jax.random.key(1)}, **read)
  return logits, found, acting


@pytest.mark.parametrize("name", ATTENDING)
def test_a_model_that_attends_drops_once_what_all_its_steps_read(name):
  config, read = attending(name, **RATES), {"encoder_inputs": INPUTS[1:2, :5]}
  module, params = random_models.build(config)

  logits, found, acting = folded(config, params, read)

  sides = {f"{side}{path}" for side in ("", "encoder/") for path in (
      "embed_dropout", "layer_0/input_dropout", "layer_1/hidden_dropout",
      "layer_0/cell/weight_dropout", "layer_1/cell/weight_dropout")}
  loops = {"layer_0/hidden_dropout"} if name != "at_once" else set()
  assert acting == sides | loops | {"output_dropout"}
  assert distance(logits, apply(module, found, INPUTS[:1], **read)) < 1e-5
  for leaf in found:  # Each of them matters.
    if found[leaf] is not params[leaf]:
      others = {**found, leaf: params[leaf]}
      assert distance(logits, apply(module, others, INPUTS[:1], **read)) > 1e-5, leaf


@pytest.mark.parametrize("name", ATTENDING)
def test_a_tied_output_reads_what_an_attention_returns(name):
  tied, params = random_models.build(attending(name, tied=True))
  read = {"encoder_inputs": INPUTS[:, :5]}
  untied = registry.build(attending(name))

  want = apply(untied, {**params, "head/kernel": params["embed/embedding"].T}, INPUTS,
               **read)

  assert "head/kernel" not in params
  assert distance(apply(tied, params, INPUTS, **read), want) < 1e-5


@pytest.mark.parametrize("output", ["context", "embed"])
def test_a_tied_output_of_state_and_context_is_refused_unless_they_are_joined(output):
  model = dataclasses.replace(attending("at_once", tied=True), attention_output=output)

  with pytest.raises(errors.UserError, match="tied is True, must be False, or the out"):
    registry.specs(registry.build(model))
  joined = registry.specs(registry.build(dataclasses.replace(model, dense_width=4)))
  assert "head/kernel" not in joined and "dense/kernel_context" in joined


def test_products_that_no_leaf_can_divide_are_listed_together():
  model = attending("at_once", tied=True)

  assert "undivided" not in registry.constants(attending("at_once"))
  assert registry.constants(model)["undivided"] == ["embed", "hidden", "mlp"]
  assert registry.constants(dataclasses.replace(
      model, encoder_attention="dot"))["undivided"] == [
          "embed", "hidden", "memory", "mlp"]
