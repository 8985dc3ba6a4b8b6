"""Tests for what a target computes otherwise than the source of its leaves."""

import dataclasses

import pytest

from transfer_gen import config
from transfer_gen.models import registry
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import constants
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import table

MODEL = config.Decoder(vocab_size=6, num_layers=2, width=8, num_heads=2, max_length=8)
LSTM = config.Recurrent(vocab_size=6, embed_width=4, hidden_width=4, num_layers=1)
COPY = (plan_lib.Rule(target="(.*)", source=r"\1"),)
TABLE = (plan_lib.Rule(target="(embed/.*)", source=r"\1"),
         plan_lib.Rule(target=".*", source=None))
ALL = (plan_lib.Group(name="all", params=".*"),)


def _audited(source, target, rules=COPY, **fields):
  """Returns the audit of a plan from one model to another."""
  plan = plan_lib.TransferPlan(rules=rules, groups=ALL, **fields)
  both = {"": registry.constants(source), resolve.TARGET: registry.constants(target)}
  specs = {"": registry.specs(registry.build(source))}
  rows = resolve.resolve(
      plan, specs, registry.specs(registry.build(target)), constants=both)
  return audit_lib.summarize(plan, rows, specs, both)


@pytest.mark.parametrize("model, changes", [
    (MODEL, dict(activation="relu")), (MODEL, dict(norm_epsilon=1e-6)),
    (MODEL, dict(attention_scale=1.0)), (MODEL, dict(windows=(4,))),
    (MODEL, dict(logit_scale=2.0)), (MODEL, dict(norm_order="both")),
    (LSTM, dict(forget_bias=0.0)), (LSTM, dict(gate="hard_sigmoid")),
    (LSTM, dict(window=4)),
])
def test_a_target_that_computes_something_else_is_refused(model, changes):
  name, value = next(iter(changes.items()))
  target = dataclasses.replace(model, **changes)
  rules = COPY if name != "norm_order" else (
      plan_lib.Rule(target=".*norm_after.*|.*_after.*", source=None), *COPY)

  with pytest.raises(resolve.PlanError) as error:
    _audited(model, target, rules)

  assert name in str(error.value)
  assert "may_differ" in str(error.value) or name == "norm_order"


def test_what_a_plan_allows_to_differ_is_listed_in_the_audit():
  target = dataclasses.replace(MODEL, activation="relu")

  audit = _audited(MODEL, target, may_differ=("activation",))

  assert audit.differ == {"": {"activation": ("gelu", "relu")}}
  read = audit_lib.from_json(audit_lib.to_json(audit))
  for shown in (audit, read):
    assert "activation, 'gelu' there and 'relu' here" in table.full(shown)


def test_a_plan_that_allows_other_differences_does_not_allow_this_one():
  target = dataclasses.replace(MODEL, activation="relu", norm_epsilon=1e-6)

  with pytest.raises(resolve.PlanError, match="norm_epsilon is 1e-05 there") as error:
    _audited(MODEL, target, may_differ=("activation",))

  assert "activation is" not in str(error.value)


def test_a_table_alone_may_come_from_a_model_that_computes_otherwise():
  target = dataclasses.replace(MODEL, activation="relu")

  audit = _audited(MODEL, target, TABLE, unused_source=("layer_.*", "final_norm/.*",
                                                        "position/.*"))

  assert not audit.differ


def test_layers_of_another_number_may_have_the_same_windows():
  deep = constants.differences({"windows": [2, 0]}, {"windows": [2, 0, 2, 0]})
  other = constants.differences({"windows": [2, 0]}, {"windows": [2, 4, 2, 4]})

  assert not deep and "windows" in other


def test_a_stack_of_the_other_kind_is_told_of_its_mask_alone():
  sizes = {field: getattr(MODEL, field) for field in (
      "vocab_size", "num_layers", "width", "num_heads", "max_length")}
  encoder = config.Encoder(**sizes)
  decoder = dataclasses.replace(MODEL, **{field: getattr(encoder, field) for field in (
      "norm_order", "embed_norm", "final_norm", "activation", "norm_epsilon",
      "token_types", "transform", "logit_bias")})

  loses, gets = (_audited(*models).differ for models in (
      (decoder, encoder), (encoder, decoder)))

  assert loses == {"": {"encoder/causal": (True, False)}}
  assert gets == {"": {"causal": (False, True)}}


def test_a_plan_with_allowed_differences_is_read_back():
  plan = plan_lib.TransferPlan(rules=COPY, groups=ALL, may_differ=("activation",))

  assert plan_lib.from_json(plan_lib.to_json(plan)) == plan
  assert "may_differ" not in plan_lib.to_json(dataclasses.replace(plan, may_differ=()))
