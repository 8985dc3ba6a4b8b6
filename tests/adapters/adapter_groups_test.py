"""Tests for the groups that train adapters or biases."""

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters
from transfer_gen.models import registry
from transfer_gen.transfer import groups as groups_lib

LoRA = config.LoRA
DECODER = config.Decoder(
    vocab_size=31, num_layers=3, width=16, num_heads=4, num_kv_heads=2, mlp_width=24,
    max_length=32, position="rotary", tied=False)
LSTM = config.Recurrent(
    vocab_size=31, num_layers=2, embed_width=6, hidden_width=8, dense_width=7,
    attention=True)


def _owners(groups, module):
  """Returns the name of the group of each leaf."""
  return {name: next(group.name for group in groups if tree.match([group.params], name))
          for name in registry.specs(module)}


def test_lora_plus_trains_the_b_factors_at_a_higher_rate():
  chosen = (LoRA(params=".*", rank=2, dora=True), config.Prefix())
  groups = groups_lib.low_rank(chosen, ratio=16.0)

  assert [(group.name, group.lr_mult, group.unfreeze_step) for group in groups] == [
      ("lora_plus", 16.0, 0), ("adapters", 1.0, 0), ("rest", 1.0, None)]
  for name, group in _owners(
      groups, adapters.wrap(registry.build(DECODER), chosen)).items():
    assert group == ("lora_plus" if name.endswith("lora_b") else "adapters"
                     if "lora" in name or "prefix" in name else "rest"), name


def test_factors_b_may_learn_more_slowly_and_at_the_same_rate_have_no_group():
  chosen = (LoRA(params=".*", rank=2),)

  assert [(group.name, group.lr_mult) for group in groups_lib.low_rank(
      chosen, ratio=0.5)] == [("lora_plus", 0.5), ("adapters", 1.0), ("rest", 1.0)]
  assert [group.name for group in groups_lib.low_rank(chosen)] == ["adapters", "rest"]


def test_bitfit_trains_exactly_the_biases():
  owners = _owners(groups_lib.bitfit(), registry.build(LSTM))

  assert {name for name, group in owners.items() if group == "biases"} == {
      "layer_0/cell/bias", "layer_1/cell/bias", "dense/bias", "head/bias"}
