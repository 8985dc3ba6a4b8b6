"""Tests for controls that get the steps that they need."""

import dataclasses

import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.study import budgets
from transfer_gen.study import dry_run
from transfer_gen.study import jobs
from transfer_gen.study import report
from transfer_gen.study import study


def _study(folder, lr, steps=5, **fields):
  """A run with a source against one without, which learns at some rate."""
  run = small_runs.configure(
      folder / "a.txt", small_runs.RNN, steps=steps, length=30, lr=0.02, eval_every=1)
  moved = dataclasses.replace(run, source=config.Source(run="first"))
  return config.Study(
      question="Is it worth it?",
      runs={"first": run, "moved": moved, "other": run,
            "scratch": run.with_values("optim", lr=lr, schedule="constant")},
      pairs=(("moved", "scratch"), ("other", "scratch")), samples=0,
      **{"budget": "converged", **fields})


def _said(facts):
  return " ".join(report.study_text(facts).split())


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("budgets")
  small_runs.write_lines(folder / "a.txt")
  return folder


@pytest.fixture(scope="module", name="falling")
def _falling(folder):
  """A study whose control is slow, and what it found."""
  return study.run(_study(folder, lr=0.01), folder / "falling")


def test_a_control_that_still_falls_gets_twice_its_steps_and_so_on(folder, falling):
  name = next(name for name in falling["longer"])
  times = falling["longer"][name]["times"]

  # At this rate even eight times as many are too few.
  assert (name, times) == ("scratch_x8", 8)
  for level in (1, 2, 4, 8):
    run = "scratch" if level == 1 else f"scratch_x{level}"
    train = codec.read_run(folder / "falling" / run / "seed_0" / "lr_0.01").train
    assert (train.steps, train.eval_every, train.checkpoint_every) == (
        5 * level, level, 5 * level)
  assert falling["summary"]["scratch_x8_test_loss"] < (
      falling["summary"]["scratch_test_loss"])


@pytest.mark.parametrize("lrs, wanted", [((), [0.01]), ((0.01, 0.05), [0.01, 0.05])])
def test_a_longer_control_has_its_own_rate_or_tries_all_of_the_study(
    folder, falling, lrs, wanted):
  assert falling["longer"]
  asked = _study(folder, lr=0.01, lrs=lrs)
  first = jobs.of_run(asked, folder / "falling", "scratch")[0]
  longer = budgets.Longer(of="scratch").next

  asked.runs[longer.name] = budgets.run_of(asked, longer, first)
  asked.pairs = (*asked.pairs, ("moved", longer.name))
  found = jobs.of_run(asked, folder / "falling", longer.name)

  assert [(job.lr, job.run.optim.lr, job.run.train.steps) for job in found] == [
      (lr, lr, 10) for lr in wanted]


def test_each_treated_run_is_compared_with_both_controls(falling):
  assert [(one["treated"], one["control"]) for one in falling["comparisons"]] == [
      ("moved", "scratch"), ("other", "scratch"),
      ("moved", "scratch_x8"), ("other", "scratch_x8")]
  assert ("scratch_x8 is scratch with 8 times the steps, at whose end its validation"
          " loss still fell.") in _said(falling)


def test_what_was_lengthened_is_not_trained_again(folder, falling, capsys):
  capsys.readouterr()

  again = study.run(_study(folder, lr=0.01), folder / "falling")

  assert "step 1/" not in capsys.readouterr().out
  assert again["summary"].pop("calls") == 2 and falling["summary"].pop("calls") == 1
  assert again["summary"].pop("seconds") > falling["summary"].pop("seconds")
  assert again == falling


def test_a_control_whose_loss_no_longer_falls_keeps_its_steps(folder):
  found = study.run(_study(folder, lr=1e-9), folder / "still")

  assert found["longer"] == {"scratch": {"of": "scratch", "times": 1}}
  assert [one["control"] for one in found["comparisons"]] == ["scratch", "scratch"]
  assert ("scratch had its own steps, at whose end its validation loss no longer fell."
          ) in _said(found)


@pytest.mark.long
def test_a_longer_control_whose_best_rate_lies_at_an_edge_tries_more_alone(
    folder, monkeypatch):
  monkeypatch.setattr(budgets, "_MOST", 2)
  asked = _study(folder, lr=0.01, lrs=(0.005, 0.01), widen=1)
  asked = dataclasses.replace(asked, pairs=(("moved", "scratch"),), runs={
      "moved": asked.runs["scratch"], "scratch": asked.runs["scratch"]})

  found = study.run(asked, folder / "widened")

  tried = {run: {path.name for path in (folder / "widened" / run / "seed_0").iterdir()}
           for run in ("moved", "scratch", "scratch_x2")}
  # Two grids, each widened once beyond its edge, as both are slow.
  assert set(map(frozenset, tried.values())) == {
      frozenset({"lr_0.005", "lr_0.01", "lr_0.03"})}
  assert found["summary"]["lrs"]["scratch_x2"] == 0.03


def test_a_name_that_a_longer_control_would_get_is_refused_before_training(folder):
  asked = _study(folder, lr=0.01)
  asked.runs["scratch_x4"] = asked.runs["scratch"]
  asked.pairs = (*asked.pairs, ("scratch_x4", "scratch"))

  for call in (study.run, dry_run.describe):
    with pytest.raises(errors.UserError, match="'scratch_x4' has the name that 'scra"):
      call(asked, folder / "taken")
  assert not (folder / "taken").exists()


def test_a_budget_of_another_name_is_refused(folder, capsys, monkeypatch):
  monkeypatch.chdir(folder)
  (folder / "run.py").write_text("""
from transfer_gen import config
def get_config():
  data = config.Data(name="files", train="a.txt")
  return config.Run(model="source", data=data, source=config.Source(path="first"))
""")

  assert "budget is 'convergd', must be one of equal, converged" in cli.refused(
      capsys, "study", "--config=run.py", "--workdir=w", "--budget=convergd")
