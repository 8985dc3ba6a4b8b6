"""Tests for what is refused before the first run of a study trains."""

import dataclasses
import json

import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.study import cost
from transfer_gen.study import dry_run
from transfer_gen.study import jobs
from transfer_gen.study import preflight
from transfer_gen.study import study
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("preflight")
  small_runs.write_lines(folder / "a.txt")
  (folder / "b.txt").write_text("".join(sorted(
      (folder / "a.txt").read_text().splitlines(keepends=True), reverse=True)))
  (folder / "t.txt").write_text("line 1\nline 2\n")
  (folder / "u.txt").write_text("line 1\nline 3\n")
  (folder / "v.txt").write_text("line 1\nline 2\nline 3\n")
  return folder


def _run(folder, **changes):
  run = small_runs.configure(folder / "a.txt", small_runs.RNN, steps=4)
  run.data.test = str(folder / "t.txt")
  return dataclasses.replace(run, **changes)


def _study(folder, **runs):
  first = _run(folder)
  return config.Study(question="?", pairs=(("moved", "scratch"),), runs={
      "first": first, "moved": dataclasses.replace(
          first, source=config.Source(run="first")), "scratch": first, **runs})


def _plan(source):
  return plan.TransferPlan(
      rules=(plan.Rule(target="(.*)", source=source),),
      axes=(plan.On(axis="vocab", map=axes.MatchTokens()),),
      groups=(plan.Group(name="all", params=".*"),))


def _moved(folder, **changes):
  return _run(folder, source=config.Source(run="first"), **changes)


def _other_test(folder, name):
  run = _run(folder)
  run.data.test = str(folder / name)
  return run


def _other_data(folder, train="a.txt", **changes):
  run = _run(folder)
  paths = (part.strip() for part in train.replace("+", ",").split(","))
  changes["train"] = (" + " if "+" in train else ",").join(
      str(folder / path) for path in paths)
  return dataclasses.replace(run, data=dataclasses.replace(run.data, **changes))


@pytest.mark.parametrize("runs, message", [
    # Of a source that is not trained yet, all is known but its values.
    (lambda folder: {"moved": _moved(folder, transfer=_plan(r"none/\1"))},
     "(?s)run 'moved': .*reads none/"),
    (lambda folder: {"moved": _moved(folder, model=dataclasses.replace(
        small_runs.RNN, hidden_width=12))}, "(?s)run 'moved': .* 8 .* 12"),
    (lambda folder: {"scratch": _run(folder, model=dataclasses.replace(
        small_runs.DECODER, max_length=8))},
     "run 'scratch': .*longer than .*max_length=8"),
    (lambda folder: {"scratch": _run(
        folder, decoding=config.Decoding(first_token=999))},
     "(?s)run 'scratch': .*decoding.first_token is 999, must be of tokens from 0 to"),
    (lambda folder: {"scratch": _run(folder).with_values("train", steps=5)},
     r"'moved' and 'scratch': train.steps is 4 and 5. Give both the same train.steps"),
    (lambda folder: {"scratch": _run(folder).with_values("train", batch_size=16)},
     "train.batch_size is 8 and 16"),
    (lambda folder: {"scratch": _other_test(folder, "u.txt")},
     r"(?s)number 2 is the first that differs.*data.test \(.*t.txt' and .*u.txt'\)"),
    (lambda folder: {"scratch": _other_test(folder, "v.txt")}, "2 and 3 of them"),
    (lambda folder: {"scratch": _other_data(folder, train="b.txt")},
     "they train on other texts, of which number 1 is the first that differs. Give both"
     r" the same training texts: here data.train \(.*a.txt' and .*b.txt'\) differ"),
    (lambda folder: {"scratch": _other_data(folder, train="a.txt,v.txt")},
     "they train on other texts, .* of them. Give both the same training texts"),
    (lambda folder: {"scratch": _other_data(folder, max_chars=10)},
     r"they train on other texts, .*: here data.max_chars \(0 and 10\) differ"),
    (lambda folder: {"moved": dataclasses.replace(
        _other_data(folder, train="a.txt*0.3+b.txt*0.7"),
        source=config.Source(run="first")),
                     "scratch": _other_data(folder, train="a.txt*0.4+b.txt*0.6")},
     "they train on other shares of a mixture. Give both the same shares: here"),
    (lambda folder: {"scratch": _other_data(folder, fraction=0.5, seed=1)},
     "data.seed is 0 and 1, which draws other texts as data.fraction. Give both"),
    (lambda folder: {"alone": _run(folder)}, "run 'alone' is in no pair"),
    (lambda folder: {"scratch": _run(folder, source=config.Source(run="moved"))},
     "source.run is 'moved', which a pair compares"),
    (lambda folder: {"First": _run(folder), "moved": _moved(
        folder, sources={"b": config.Source(run="First")})},
     "run 'First' has the folder of run 'first'"),
])
def test_what_is_wrong_in_a_study_is_refused_before_any_run_trains(
    runs, message, folder, tmp_path):
  asked = _study(folder, **runs(folder))

  with pytest.raises(errors.UserError, match=message):
    study.run(asked, tmp_path / "w")

  assert not (tmp_path / "w").exists()


@pytest.mark.long
def test_a_pair_on_another_part_of_the_texts_or_other_rows_is_noted(folder, tmp_path):
  asked = dataclasses.replace(_study(
      folder, half=_other_data(folder, fraction=0.5),
      rows=_other_data(folder, length=12, packing="joined")), samples=0,
      pairs=(("moved", "scratch"), ("moved", "half"), ("rows", "scratch")))

  facts = study.run(asked, tmp_path / "w")

  assert facts["notes"] == [
      "moved and half: data.fraction is 1.0 and 0.5, so the gain is not that of the"
      " source alone",
      "rows and scratch: data.length is 12 and 16, data.packing is 'joined' and"
      " 'separate', so the gain is not that of the source alone"]
  page = (tmp_path / "w" / "report.html").read_text()
  assert "moved and half: data.fraction is 1.0 and 0.5" in page


def test_a_model_of_texts_alone_may_be_compared_with_one_of_pairs(folder, tmp_path):
  for split, numbers in (
      ("train", range(70)), ("validation", range(70, 80)), ("test", range(80, 99))):
    (tmp_path / f"{split}.jsonl").write_text("".join(
        json.dumps({"text": f"line {i}", "a": f"{i}?", "b": f"{i}!"}) + "\n"
        for i in numbers))
  data = config.Data(name="files", length=24, **{
      split: str(tmp_path / f"{split}.jsonl") for split in (
          "train", "validation", "test")})
  run = _run(folder, model=small_runs.DECODER)
  a, b, alone = (
      dataclasses.replace(run, data=dataclasses.replace(data, input_field=field))
      for field in ("a", "b", ""))
  asked = config.Study(
      question="?", pairs=(("a", "alone"),), runs={"a": a, "alone": alone})
  other = dataclasses.replace(asked, pairs=(("a", "b"),), runs={"a": a, "b": b})

  notes = preflight.check(asked, jobs.jobs(asked, tmp_path / "w")).notes

  assert notes == [
      "a and alone: data.input_field is 'a' and '', so the gain is not that of the"
      " source alone"]
  with pytest.raises(errors.UserError, match="train on other texts, of which number 1"):
    preflight.check(other, jobs.jobs(other, tmp_path / "w"))


@pytest.mark.parametrize("call", [study.run, dry_run.describe])
def test_what_has_the_place_of_the_link_best_is_refused_before_training(
    call, folder, tmp_path):
  (tmp_path / "best").write_text("of my photographs\n")

  with pytest.raises(errors.UserError, match="best: is no link to a run.* Rename it"):
    call(_study(folder), tmp_path)

  assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_dry_run_lists_what_would_train_and_writes_nothing(folder, tmp_path):
  asked = dataclasses.replace(
      _study(folder), seeds=(0, 1, 2), lrs=(0.1, 0.2))

  lines = dry_run.describe(asked, tmp_path / "w").splitlines()

  rows = {line.split()[0]: line.split()[1:] for line in lines[:4]}
  assert list(rows) == ["run", "first", "moved", "scratch"]
  assert rows["moved"][:3] == ["3", "2", "4"] and rows["first"][:3] == ["1", "1", "4"]
  # 8 rows of at most 16 tokens in each of 4 steps.
  assert rows["moved"][3] == rows["scratch"][3]
  assert 100 < int(rows["moved"][3].replace(",", "")) <= 512
  assert float(rows["moved"][4]) > 0 and float(rows["moved"][5]) > 0
  assert "13 trainings" in lines[5] and "widened, 3 times at most" in lines[-2]
  assert max(map(len, lines)) <= 80 and lines[-1] == "  takes longer."
  assert not (tmp_path / "w").exists()
  one = dry_run.describe(asked, tmp_path / "w", "scratch/seed_0")
  assert "\n2 trainings" in one and "moved" not in one
  for call in (dry_run.describe, study.run):
    with pytest.raises(errors.UserError, match="no run, .* are first, moved, scratch"):
      call(asked, tmp_path / "w", "Scratch*")
  assert not (tmp_path / "w").exists()
  for widen, said in ((1, "widened, once at most"), (0, "")):
    text = dry_run.describe(
        dataclasses.replace(asked, widen=widen), tmp_path / "w", "scratch/seed_0")
    assert (said in text) and ("widened" in text) == bool(said)


def _frozen(folder, **changes):
  """A run that trains its output alone."""
  groups = (plan.Group(name="head", params="head/.*"),
            plan.Group(name="body", params=".*", unfreeze_step=None))
  return _moved(folder, transfer=dataclasses.replace(
      _plan(r"\1"), groups=groups), **changes)


def test_runs_get_the_steps_for_equally_many_flops(folder, tmp_path):
  asked = dataclasses.replace(
      _study(folder, moved=_frozen(folder)), equal="flops",
      pairs=(("moved", "scratch"), ("first_again", "moved")))
  asked.runs["first_again"] = _moved(folder, transfer=_plan(r"\1"))
  asked.runs = {name: run.with_values("train", steps=40, eval_every=20)
                for name, run in asked.runs.items()}

  checked = preflight.check(asked, jobs.jobs(asked, tmp_path))

  steps = {name: one.run.train.steps for name, one in checked.runs.items()}
  assert steps["first"] == steps["scratch"] == steps["first_again"] == 40
  flops = {name: cost.of_run(one, steps[name]) for name, one in checked.runs.items()}
  one = flops["moved"] / steps["moved"]
  assert abs(flops["moved"] - flops["scratch"]) <= 0.5 * one  # To the nearest step.
  assert steps["moved"] > 60  # Without the gradients of what is frozen.
  assert checked.study.runs["moved"].train.steps == steps["moved"]
  assert checked.study.runs["moved"].train.eval_every == round(steps["moved"] / 2)
  assert checked.notes == [
      f"moved: {steps['moved']} steps in place of 40, for as many FLOPs as its control"]
  assert "as many FLOPs" in dry_run.describe(asked, tmp_path / "w")


def test_runs_of_other_batches_can_have_equally_many_tokens(folder, tmp_path):
  asked = dataclasses.replace(_study(
      folder, moved=_moved(folder).with_values("train", batch_size=16)), samples=0)

  facts = study.run(dataclasses.replace(asked, equal="tokens"), tmp_path)
  again = study.run(dataclasses.replace(asked, equal="tokens"), tmp_path)

  assert again["summary"]["calls"] == 2
  for one in (facts, again):
    assert one["runs"]["moved"][0]["step"] == 2
    trained = [one["runs"][name][0]["train_tokens"] for name in ("moved", "scratch")]
    assert trained[0] == pytest.approx(trained[1], rel=0.1)
    assert one["notes"] == [
        "moved: 2 steps in place of 4, for as many tokens as its control"]


@pytest.mark.parametrize("equal, changes, message", [
    ("flops", lambda folder: {"moved": _moved(
        folder, strategy=config.Strategy(name="auto", budget=40))},
     "run 'moved': equal='flops' .* that of an `auto` search is not known"),
    ("tokens", lambda folder: {"other": _run(folder).with_values("train", steps=9)},
     "'moved' is compared with 'other' and 'scratch', which have .* tokens"),
    ("steps", lambda folder: {"scratch": _run(folder).with_values("train", steps=5)},
     "or set equal='tokens' or 'flops'"),
])
def test_budgets_that_cannot_be_made_equal_are_refused(
    equal, changes, message, folder, tmp_path):
  asked = dataclasses.replace(_study(folder, **changes(folder)), equal=equal)
  if "other" in asked.runs:
    asked.pairs = (*asked.pairs, ("moved", "other"))

  with pytest.raises(errors.UserError, match=message):
    study.run(asked, tmp_path / "w")
