"""Tests for the plan, adapters and objective that each named strategy sets."""

import dataclasses

import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.adapters import wrap as adapters
from transfer_gen.models import registry
from transfer_gen.run import strategies
from transfer_gen.run import strategy_snippet
from transfer_gen.train import optim
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

MODEL = config.Decoder(vocab_size=6, num_layers=3, width=8, num_heads=2, max_length=8)
UNTIED = dataclasses.replace(MODEL, tied=False)
LETTERS = lambda text: vocabulary.Vocabulary(
    tokens=tuple(letter.encode() for letter in text))
OLD, NEW = LETTERS("abcdef"), LETTERS("fghabc")


def _written(model=MODEL, vocabularies=(OLD, NEW), adapters_=(), transfer=None,
             **strategy):
  """Returns the run that a strategy writes, its rows, and the leaves that learn."""
  run = config.Run(
      model=model, source=config.Source(path="there"), adapters=adapters_,
      transfer=transfer, train=config.Train(steps=80),
      strategy=config.Strategy(**strategy))
  source = registry.specs(registry.build(model))
  resolved = lambda plan, target: resolve.resolve(
      plan, {"": source}, target,
      {"": vocabularies[0], resolve.TARGET: vocabularies[1]},
      {"": registry.constants(model), resolve.TARGET: registry.constants(model)})
  strategies.check(run)
  plan = strategies.base(run, run.transfer, matches=True)
  run = strategies.write(run, plan, resolved(
      plan, registry.specs(adapters.wrap(registry.build(model), adapters_))))
  rows = resolved(run.transfer, registry.specs(
      adapters.wrap(registry.build(model), run.adapters)))
  built = optim.build(run.optim, run.transfer.groups, rows, run.train.steps)
  learning = {name for members in built.members.values() for name in members}
  return run, {row.name: row for row in rows}, learning


def _groups(run):
  return {group.name: group for group in run.transfer.groups}


def test_fine_tune_trains_every_leaf():
  _, rows, learning = _written(name="fine_tune")

  assert learning == rows.keys()


def test_frozen_freezes_the_embedding_and_the_lowest_layers():
  _, rows, learning = _written(model=UNTIED, name="fine_tune", frozen=2, vocabularies=(
      OLD, OLD))

  assert rows.keys() - learning == {
      name for name in rows if name.startswith(("embed/", "position/", "layer_0/"))}


def test_feature_extraction_trains_only_the_output():
  _, _, learning = _written(model=UNTIED, vocabularies=(OLD, OLD),
                            name="feature_extraction")

  assert learning == {"head/kernel", "final_norm/scale", "final_norm/bias"}


def test_rows_of_new_tokens_learn_even_if_their_table_is_frozen():
  _, rows, learning = _written(model=UNTIED, name="feature_extraction")

  assert "embed/embedding" in learning
  # Rows 1 and 2 are "g" and "h", which the source does not have.
  assert rows["embed/embedding"].table.index.tolist() == [1, 2]
  assert rows["head/kernel"].table is None


def test_leaves_without_a_source_learn_under_any_strategy():
  run = config.Run(
      model=MODEL, source=config.Source(path="there"), transfer=plan_lib.TransferPlan(
          rules=(plan_lib.Rule(target="layer_0/mlp/.*", source=None),
                 plan_lib.Rule(target="(.*)", source=r"\1")),
          groups=(plan_lib.Group(name="none", params=".*"),),
          unused_source=("layer_0/mlp/.*",)),
      strategy=config.Strategy(name="surgical", learn=("layer_2",)))
  specs = registry.specs(registry.build(MODEL))
  plan = strategies.base(run, run.transfer, matches=False)
  rows = resolve.resolve(plan, {"": specs}, specs)

  written = strategies.write(run, plan, rows).transfer
  groups = {row.name: row.group for row in resolve.resolve(written, {"": specs}, specs)}

  assert {name for name, group in groups.items() if group == "fresh"} == {
      name for name in specs if name.startswith("layer_0/mlp/")}
  assert {name for name, group in groups.items() if group == "layer_2"} == {
      name for name in specs if name.startswith("layer_2/")}
  assert groups["layer_1/mlp/up/kernel"] == "rest"


def test_discriminative_rates_fall_from_the_top():
  run, *_ = _written(name="discriminative", factor=2.0, lr_mult=3.0)

  groups = _groups(run)
  assert groups["head"].lr_mult == 3
  assert groups["layer_2"].lr_mult == 1.5
  assert groups["layer_0"].lr_mult == 0.375


def test_ulmfit_slows_lower_layers_and_starts_them_later():
  run, *_ = _written(model=UNTIED, name="ulmfit")

  # 80 steps and 5 groups; a tenth of the steps comes first.
  assert [(g.name, g.unfreeze_step, round(1 / g.lr_mult, 3))
          for g in run.transfer.groups] == [
      ("head", 0, 1.0), ("layer_2", 8, 2.6), ("layer_1", 16, 6.76),
      ("layer_0", 24, 17.576), ("embed", 32, 45.698)]
  run, *_ = _written(model=UNTIED, name="ulmfit", every=3, factor=2.0, frozen=1)
  groups = _groups(run)
  assert groups["layer_0"].unfreeze_step == 9 and groups["layer_0"].lr_mult == 1 / 8
  assert groups["embed"].unfreeze_step is None


def test_ulmfit_starts_the_lowest_of_many_layers_by_the_middle_of_the_run():
  deep = dataclasses.replace(UNTIED, num_layers=9)

  run, *_ = _written(model=deep, name="ulmfit")

  assert [g.unfreeze_step for g in run.transfer.groups] == [*range(0, 31, 3)]


def test_gradual_unfreezing_ends_by_the_middle_of_the_run():
  run, *_ = _written(name="gradual_unfreezing")

  starts = [group.unfreeze_step for group in run.transfer.groups]
  assert starts == sorted(starts) and starts[0] == 0
  # The run has 80 steps: the last group must start late, but before the middle.
  assert 20 < starts[-1] <= 40


def test_l2_sp_uses_one_anchored_group_without_weight_decay():
  run, *_ = _written(name="l2_sp", alpha=0.5, beta=0.25)

  [group] = run.transfer.groups
  assert group.anchor == plan_lib.L2SP(alpha=0.5, beta=0.25)
  assert group.weight_decay == 0


def test_lora_trains_only_added_factors_and_freezes_the_kernels():
  run, rows, learning = _written(name="lora", rank=4, vocabularies=(OLD, OLD))

  assert run.adapters[0].rank == 4
  assert learning and all("/lora_" in name for name in learning)
  kernels = {name for name in rows
             if name.startswith("layer_") and name.endswith("/kernel")}
  assert len(learning) == 2 * len(kernels)
  assert _groups(run)["adapters"].lr_mult == 10
  assert _groups(run)["rest"].lr_mult == 1


@pytest.mark.parametrize("new, vocabularies", [(OLD, "same"), (NEW, "uld")],
                         ids=["same_tokens", "other_tokens"])
def test_distill_uses_the_source_as_the_teacher(new, vocabularies):
  run, rows, learning = _written(name="distill", vocabularies=(OLD, new))

  assert learning == rows.keys()
  assert run.distill.teacher == run.source
  assert run.distill.vocabularies == vocabularies


def test_the_printed_plan_is_python_that_gives_the_same_plan():
  run, *_ = _written(name="lora")

  scope = {}
  exec(strategy_snippet.snippet(run), scope)

  assert scope["transfer"](None) == run.transfer
  assert "rank=16" in strategy_snippet.snippet(run)


@pytest.mark.parametrize("name", ["feature_extraction", "fine_tune"])
@pytest.mark.parametrize("planned", [False, True])
def test_adapters_of_the_run_learn_under_any_strategy(name, planned):
  lora = config.LoRA(params=r"layer_\d+/attn/query/kernel", rank=2)
  transfer = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*lora_.", source=None),
             plan_lib.Rule(target="(.*)", source=r"\1")),
      groups=(plan_lib.Group(name="none", params=".*"),)) if planned else None

  _, rows, learning = _written(
      name=name, adapters_=(lora,), transfer=transfer, vocabularies=(OLD, OLD))

  own = {name for name in rows if "lora_" in name}
  assert len(own) == 6 and own <= learning


@pytest.mark.parametrize("strategy, says", [
    ({"name": "fine_tuned"}, "Nearest: fine_tune"),
    ({"name": "surgical"}, "strategy.learn is ()"),
    ({"name": "surgical", "learn": ("layer_9",)}, "'layer_9' is none"),
    ({"name": "fine_tune", "frozen": 9}, "strategy.frozen is 9, must be 0 to 4"),
    ({"name": "feature_extraction", "frozen": 1}, "'feature_extraction' does not read"),
    ({"name": "lora", "learn": ("head",)}, "strategy.learn is ('head',), and 'lora'"),
    ({"name": "auto", "rank": 4}, "'auto' reads budget"),
    ({"frozen": 2}, "strategy.name is empty"),
], ids=lambda value: value.get("name") if isinstance(value, dict) else "")
def test_invalid_strategy_settings_are_refused(strategy, says):
  with pytest.raises(errors.UserError) as caught:
    _written(**strategy)

  assert says in str(caught.value)


def test_a_strategy_needs_a_source():
  with pytest.raises(errors.UserError, match="no source to learn from"):
    strategies.check(config.Run(strategy=config.Strategy(name="lora")))
