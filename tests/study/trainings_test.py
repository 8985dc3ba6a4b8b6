"""Tests for studies in which something fails, is cut, goes on or has changed."""

import dataclasses
import json

from etils import epath
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.commands import study as study_command
from transfer_gen.run import loop
from transfer_gen.study import jobs
from transfer_gen.study import report
from transfer_gen.study import report_folder
from transfer_gen.study import samples
from transfer_gen.study import study


def _study(folder, **changes):
  """A study of three pairs, the second of which has a run that diverges."""
  run = small_runs.configure(
      folder / "a.txt", small_runs.RNN, steps=2, length=30, lr=0.01)
  run.data.test = str(folder / "t.txt")
  moved = dataclasses.replace(run, source=config.Source(run="first"))
  sick = run.with_values("optim", lr=1e30, weight_decay=1e20, clip_norm=0.0)
  asked = config.Study(
      question="Does it go on?",
      runs={"first": run, "moved": moved, "scratch": run, "sick": sick, "last": run},
      pairs=(("moved", "scratch"), ("sick", "scratch"), ("last", "scratch")))
  return dataclasses.replace(asked, **changes)


@pytest.fixture(scope="module", name="troubled")
def _troubled(tmp_path_factory):
  folder = tmp_path_factory.mktemp("troubled")
  small_runs.write_lines(folder / "a.txt")
  # The training texts have no sharp s, so that characters have no token for it.
  (folder / "t.txt").write_text("".join(f"test line ß {i}\n" for i in range(9)))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(samples, "_written", _fails)
    return folder, study.run(_study(folder), folder / "w")


def _fails(*_):
  raise errors.UserError("no sample could be written")


def test_an_unseen_character_of_a_test_prompt_does_not_end_a_study(troubled):
  folder, facts = troubled

  assert facts["runs"]["moved"][0]["documents"] == 9
  assert (folder / "w" / "report.html").exists()


def test_samples_that_fail_become_a_note_and_leave_the_scores(troubled):
  folder, facts = troubled

  stored = json.loads((folder / "w" / report_folder.RESULT).read_text())
  assert [note.partition(":")[0] for note in facts["notes"]] == [
      f"samples of {name}, seed 0, lr 0.01" for name in ("moved", "scratch", "last")]
  assert "no sample could be written" in facts["notes"][0]
  assert stored["notes"] == facts["notes"] and facts["notes"][0] in " ".join(
      report.study_text(facts).split())
  assert stored["summary"]["gain_nats_per_token"] == (
      facts["summary"]["gain_nats_per_token"])


def test_a_run_that_fails_is_reported_and_the_others_go_on(troubled, capsys):
  _, facts = troubled

  assert facts["missing"] == [("sick", "scratch")]
  assert [one["treated"] for one in facts["comparisons"]] == ["moved", "last"]
  [failure] = facts["failures"]
  assert failure["run"] == "sick, seed 0, lr 1e+30" and failure["diverged"]
  shown = " ".join(report.study_text(facts).split())
  assert "sick against scratch: no result." in shown and failure["lines"][0] in shown
  with pytest.raises(SystemExit, match="1"):
    study_command._end(facts)
  assert "sick against scratch has no result: sick, seed 0" in capsys.readouterr().err


def test_a_rate_that_diverges_is_no_failure_where_each_pair_has_a_result():
  diverged = {"run": "a", "name": "a", "diverged": True}

  study_command._end({"missing": [], "failures": [diverged]})
  study_command._end({"missing": [("a", "b")], "failures": []})  # As of --only.
  with pytest.raises(SystemExit):
    study_command._end({"missing": [], "failures": [{**diverged, "diverged": False}]})


def test_a_study_that_goes_on_repeats_nothing_that_has_ended(troubled, monkeypatch):
  folder, facts = troubled
  monkeypatch.setattr(loop, "train", None)  # Any attempt to train fails.

  again = study.run(_study(folder), folder / "w")

  assert again["comparisons"] == facts["comparisons"]
  assert [one["name"] for one in again["failures"]] == ["sick"]
  assert not again["failures"][0]["diverged"]


def test_the_results_of_a_pair_are_there_when_the_next_one_is_cut(
    troubled, monkeypatch):
  folder, facts = troubled
  asked = _study(folder)
  asked.runs["late"] = asked.runs["first"].with_values("optim", lr=0.02)
  asked.pairs = (("moved", "scratch"), ("late", "scratch"))
  del asked.runs["sick"], asked.runs["last"]
  (folder / "w" / report_folder.RESULT).unlink()

  def cut(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, "train", cut)
  with pytest.raises(KeyboardInterrupt):
    study.run(asked, folder / "w")

  stored = json.loads((folder / "w" / report_folder.RESULT).read_text())
  assert [one["treated"] for one in stored["comparisons"]] == ["moved"]
  assert stored["comparisons"][0]["gain"] == facts["comparisons"][0]["gain"]
  assert stored["missing"] == [["late", "scratch"]]


def test_a_changed_config_under_a_finished_run_is_refused_or_kept_aside(
    troubled):
  folder, _ = troubled
  asked = _study(folder, pairs=(("moved", "scratch"),))
  del asked.runs["sick"], asked.runs["last"]
  asked.runs["first"] = asked.runs["first"].with_values("train", log_every=2)

  with pytest.raises(errors.UserError) as refused:
    study.run(asked, folder / "w")
  assert "train.log_every: 1 there, 2 here" in str(refused.value)
  assert "--force" in str(refused.value)
  before = small_runs.metrics(folder / "w" / "first")
  facts = study.run(asked, folder / "w", force=True)

  # The run that starts from it trains anew as well, and the control does not.
  assert not facts["missing"]
  assert small_runs.metrics(folder / "w" / "first.old_1") == before
  assert (folder / "w" / "moved" / "seed_0" / "lr_0.01.old_1").exists()
  assert not (folder / "w" / "scratch" / "seed_0" / "lr_0.01.old_1").exists()
  assert len(small_runs.metrics(folder / "w" / "first")) < len(before)


@pytest.mark.parametrize("only, found", [
    ("", ["first", "moved", "moved", "scratch", "scratch"]),
    ("moved/seed_1", ["first", "moved"]),
    ("scratch", ["scratch", "scratch"]),
    ("*/seed_0", ["first", "moved", "scratch"]),
    ("none", []),
])
def test_a_pattern_selects_runs_with_the_sources_that_they_read(only, found, tmp_path):
  asked = _study(epath.Path(tmp_path), pairs=(("moved", "scratch"),), seeds=(0, 1))
  del asked.runs["sick"], asked.runs["last"]

  assert [job.name for job in jobs.selected(
      jobs.jobs(asked, tmp_path), only)] == found
