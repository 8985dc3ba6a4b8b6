"""Tests that change every field of every config, and plans, in many wrong ways."""

import copy
import dataclasses
import importlib
import pickle
import pkgutil
import random
import typing

import pytest

from benchmarks import trust_configs
from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.commands import flags
from transfer_gen.config import codec, declare, metric_names
from transfer_gen.metrics import measures
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib

_STUDY = config.Study(question="q", runs={"a": config.Run()}, pairs=(("a", "a"),))
CONFIGS = (
    config.Run(), config.Data(), config.Tokenizer(), config.Decoding(), config.Optim(),
    config.Train(), config.Parallel(), config.Strategy(), config.Source(),
    config.Features(), config.Distill(), config.Decoder(), config.EncoderDecoder(),
    config.Encoder(), config.Recurrent(), _STUDY, config.LoRA(params=".*"),
    config.IA3(), config.Bottleneck(), config.Prefix(), config.Objective(),
    config.Term(), config.Corrupt(), config.Sketch())
PARTS = (
    plan_lib.SCRATCH, plan_lib.SCRATCH.rules[0], plan_lib.SCRATCH.groups[0],
    plan_lib.On(axis="mlp", map=axes.Cut()), plan_lib.L2SP(alpha=0.1),
    plan_lib.EWC(strength=1.0, fisher="f"), plan_lib.Mixout(p=0.5), axes.Grow(),
    axes.MatchTokens(), axes.Select(index=(0,)), axes.Extend())
# What is the value of no field, whatever its type.
NEVER = (float("nan"), float("inf"), -float("inf"), 2**63, 10**400, b"a", 3 + 4j, "a\0")
_name = lambda value: type(value).__name__
# Texts that may be anything: paths, columns of a table, and what a person writes.
FREE = {
    "Data.train", "Data.validation", "Data.test", "Data.input_field", "Data.columns",
    "Tokenizer.path", "Source.path", "Source.map", "Source.tokenizer", "Source.run",
    "Features.path", "Study.question", "Study.pairs"}


def _leaves(hint):
  """Yields the types that a hint ends in, with their rules."""
  for kind, rules in declare.split(hint):
    inner = [one for one in typing.get_args(kind) if one is not ...]
    # The values of a dict by fields are checked as those fields.
    if inner and not any(isinstance(rule, declare.FieldsOf) for rule in rules):
      for one in inner:
        yield from _leaves(one)
    else:
      yield kind, rules


def test_every_field_of_every_config_declares_what_it_may_hold():
  found = {kind for module in pkgutil.iter_modules(config.__path__)
           for kind in vars(importlib.import_module(f"{config.__name__}.{module.name}")
                            ).values()
           if dataclasses.is_dataclass(kind) and kind.__module__ == (
               f"{config.__name__}.{module.name}") and module.name != "declare"}
  tried = {kind for whole in CONFIGS for kind in type(whole).__mro__
           if dataclasses.is_dataclass(kind)}

  bare = {f"{kind.__name__}.{name}" for kind in found
          for name, hint in declare.hints(kind).items()
          for one, rules in _leaves(hint) if one in (str, typing.Any, int, float, dict)
          and not rules}
  # `sources` is a dict by names of its own; rules of the plan name them.
  assert bare - {"Run.sources"} == FREE
  assert found == tried


def test_a_config_knows_the_names_of_all_metrics():
  of_texts = {name for name, metric in measures.METRICS.items()
              if metric.needs in (measures.OUTPUTS, measures.REFERENCES)}

  assert set(metric_names.TEXTS) == of_texts
  assert set(metric_names.GROUPS) == set(measures.GROUPS)
  names = {*metric_names.LOSSES, *metric_names.TEXTS, metric_names.NOVELTY}
  assert names == set(measures.METRICS)


@pytest.mark.parametrize("changes, message", [
    ({"widht": 3}, "config.model_changes has no field 'widht'. Nearest: width"),
    ({"width": "3"}, "model_changes..width.. is '3', must be a whole number from 1"),
    ({"width": 8, "dropout": 2}, "model_changes..dropout.. is 2, must be a number in"),
    ({3: 4}, "has no field 3"), ([], "must be a dict by fields of Decoder, ")])
def test_changes_of_the_model_of_a_source_are_checked_as_its_fields(changes, message):
  with pytest.raises(errors.UserError, match=message):
    config.check(config.Run(model="source", model_changes=changes))

  # Each of a model of its own kind; which one the source has is not known here.
  config.check(config.Run(model="source", model_changes={"width": 8, "cell": "gru"}))


@pytest.mark.parametrize("whole", CONFIGS + PARTS, ids=_name)
def test_every_number_has_a_range_and_every_field_is_documented(whole):
  text = "".join(kind.__doc__ or "" for kind in type(whole).__mro__)

  for name, hint in declare.hints(type(whole)).items():
    assert f"{name}: " in text, name
    pending = [hint]
    while pending:
      for kind, rules in declare.split(pending.pop()):
        ranged = any(isinstance(rule, declare.Between) for rule in rules)
        assert ranged == (kind in (int, float)), name
        pending += [one for one in typing.get_args(kind) if one is not ...]


@pytest.mark.parametrize("text", [
    "* ``batch_size``: a whole number from 0 to 1048576 (0 to have it chosen).",
    "* ``eval_every``: a whole number from 0 to 2147483647 (0 to have it chosen)."])
def test_the_docstring_of_a_config_gives_the_ranges_that_are_checked(text):
  assert text in config.Train.__doc__.split("\n")


@pytest.mark.parametrize("whole", CONFIGS + PARTS, ids=_name)
def test_wrong_values_are_refused_with_the_name_of_their_field(whole):
  for name, hint in declare.hints(type(whole)).items():
    kinds = [kind for kind, _ in declare.split(hint)]
    wrong = [*NEVER, *([] if bool in kinds else [True]),
             *([] if type(None) in kinds or name == "transfer" else [None])]
    for value in wrong:
      with pytest.raises(errors.UserError) as raised:
        config.check(dataclasses.replace(copy.copy(whole), **{name: value}))
      assert name in str(raised.value)


def test_a_whole_number_that_no_program_computes_with_is_refused_with_what_to_write():
  model = config.Decoder(embed_scale=2**40)

  with pytest.raises(errors.UserError, match="write it as a real number, such as 1e10"):
    config.check(model)

  model.embed_scale = float(2**40)
  config.check(model)


@pytest.mark.parametrize("whole", CONFIGS + PARTS, ids=_name)
def test_both_ends_of_a_range_are_inside_and_their_neighbors_outside(whole):
  tried = 0
  for name, hint in declare.hints(type(whole)).items():
    for kind, rules in declare.split(hint):
      for rule in rules:
        if kind not in (int, float) or not isinstance(rule, declare.Between):
          continue
        step = 1 if kind is int else 0.5 * rule.most
        for end, closed, beyond in (
            (rule.least, rule.ends[0] == "[", rule.least - step),
            (rule.most, rule.ends[1] == "]", rule.most + step)):
          # The end itself is outside where the bracket leaves it out.
          if closed:
            config.check(dataclasses.replace(copy.copy(whole), **{name: end}))
          with pytest.raises(errors.UserError, match=name):
            config.check(dataclasses.replace(
                copy.copy(whole), **{name: beyond if closed else end}))
          tried += 1
  assert tried or _name(whole) not in ("Train", "Decoder", "Optim", "Group")


def test_the_ends_of_ranges_can_be_planned(tmp_path):
  for number in range(2):
    whole = trust_configs.base(tmp_path, number)
    for _, path, name, hint in trust_configs.fields(whole):
      # All other parts are those of the first one.
      if number and not path.startswith("model."):
        continue
      for _, rules in declare.split(hint):
        for rule in rules:
          if not isinstance(rule, declare.Between) or rule.ends != "[]":
            continue
          for end in {rule.least, rule.most}:
            run = trust_configs.base(tmp_path, number)
            owner = run
            for part in path.split(".")[:-1]:
              owner = getattr(owner, part)
            setattr(owner, name, end)
            mutant = trust_configs.Mutant(
                path, (name, path.split(".")[0]),
                lambda run=run: assemble.build(run, tmp_path / "workdir"))
            assert trust_configs.outcome(mutant)[0] != "failures", (path, end)


def test_random_mutants_of_configs_and_plans_are_refused_or_planned(capsys):
  found = trust_configs.run(120, seed=3)

  assert found["failures"] == 0, capsys.readouterr().out
  assert found["configs"] == found["refused"] + found["accepted"] == 120
  assert found["refused"] > 60 and found["accepted"] > 5


def test_the_first_misfit_of_a_plan_names_its_one_mistake():
  assert trust_configs.planted(36, seed=0) == 1.0


def test_an_outcome_distinguishes_a_traceback_from_a_refusal():
  def fail():
    raise KeyError("x")
  def refuse():
    raise errors.UserError("train.steps is wrong")

  assert trust_configs.outcome(trust_configs.Mutant("", (), fail))[0] == "failures"
  tried = [trust_configs.outcome(trust_configs.Mutant("", (name,), refuse))[0]
           for name in ("steps", "seed")]
  assert tried == ["refused", "failures"]


@pytest.mark.parametrize("act", [
    lambda run: setattr(run.train, "stepz", 3), lambda run: config.Train(stepz=3),
    lambda run: dataclasses.replace(run.train, stepz=3)],
    ids=["attribute", "keyword", "replace"])
def test_a_misspelt_field_is_refused_with_the_nearest_name(act):
  with pytest.raises(errors.UserError, match="Train has no field 'stepz'.*steps"):
    act(config.Run())


@pytest.mark.parametrize("words, message", [
    (["--config.train.stepz=3"], "config.train has no field 'stepz'"),
    (["--config.train.steps=nan"], "--config.train.steps is 'nan', must be a whole"),
    (["--config.optim.b1=nan"], "config.optim.b1 is nan, must be a number in"),
    (["--config.parallel.fsdp=0"], "config.parallel.fsdp is 0, must be a whole"),
    (["--config.seed=-1", "--config.model.num_layers=9223372036854775808"],
     "config.model.num_layers is 9223372036854775808, must .*\n  config.seed is -1")])
def test_flags_with_wrong_fields_or_values_are_refused(tmp_path, words, message):
  path = tmp_path / "config.py"
  path.write_text("from transfer_gen import config\nget_config = config.Run")

  with pytest.raises(errors.UserError, match=message):
    flags.parse("plan", [f"--config={path}", "--workdir=w", *words])


def test_configs_survive_pickling_copying_and_replacing():
  for whole in CONFIGS + PARTS:
    assert pickle.loads(pickle.dumps(whole)) == whole or _name(whole) == "Select"
    assert copy.deepcopy(whole) == whole or _name(whole) == "Select"
  run = dataclasses.replace(config.Run(), seed=3)
  run.train.steps = 5
  assert (run.seed, run.train.steps) == (3, 5)


def test_numbers_of_numpy_are_written_as_json(tmp_path):
  numpy = pytest.importorskip("numpy")
  run = config.Run(
      seed=numpy.int64(7), model=config.Decoder(width=numpy.int32(8), windows=[1, 2]))

  again = codec.run_from_json(codec.run_to_json(run))

  assert type(again.seed) is int and type(again.model.width) is int
  assert again.model.windows == (1, 2)


def test_a_model_of_more_params_than_any_machine_holds_is_refused():
  huge = dataclasses.replace(
      small_runs.DECODER, vocab_size=9, num_layers=1000, width=2**20)

  with pytest.raises(errors.UserError, match="more than 1e.13; the largest leaf is"):
    registry.specs(registry.build(huge))


@pytest.mark.long
def test_many_random_mutants_are_refused_or_planned(capsys):
  found = trust_configs.run(2000, seed=random.randrange(10**6))

  assert found["failures"] == 0, capsys.readouterr().out
