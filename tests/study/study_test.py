"""Tests for studies: order of runs, resuming, summary and report."""

import collections
import csv
import dataclasses
import json
import pathlib
import shutil

from lxml import html
import numpy as np
import pytest

from tests import counting
from tests import small_runs
from transfer_gen import checkpoint
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import every_training
from transfer_gen.study import jobs
from transfer_gen.study import report
from transfer_gen.study import study
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan


def _run(text, source=None, transfer=None):
  return small_runs.configure(
      text, dataclasses.replace(small_runs.RNN, cell="gru", hidden_width=12), steps=6,
      length=12, log_every=2, eval_every=2, lr=0.02,
      source=config.Source(run=source) if source else None, transfer=transfer)


# Calls of the functions that read data, counted while the fixture runs the study.
_READING: collections.Counter[str] = collections.Counter()


@pytest.fixture(scope="module", name="done")
def _done(tmp_path_factory):
  """Runs a study of one pair with two seeds and two learning rates."""
  folder = tmp_path_factory.mktemp("study")
  first, second = folder / "a.txt", folder / "b.txt"
  first.write_text("".join(f"{i} apples and {i % 7} pears\n" for i in range(150)))
  second.write_text("".join(f"{i} dogs or {i % 9} cats!\n" for i in range(150)))
  moved = plan.TransferPlan(
      rules=(plan.Rule(target="(.*)", source=r"\1"),),
      axes=(plan.On(axis="vocab", map=axes.MatchTokens()),),
      groups=(plan.Group(name="all", params=".*"),))
  asked = config.Study(
      question="Do apples help with dogs?",
      runs={"moved": _run(second, "first", moved), "scratch": _run(second),
            "first": _run(first)},
      pairs=(("moved", "scratch"),), seeds=(0, 1), lrs=(0.01, 0.02), widen=0, samples=2,
      accounts=True, remembered=_run(first).data)
  with counting.calls((documents, "read_filtered"), (pipeline, "prepare"),
                      (tokenizers, "build")) as counts:
    facts = study.run(asked, folder / "w")
  _READING.update(counts)
  return folder, asked, facts


def test_a_study_reads_each_data_set_once(done):
  # The study has nine trainings. The source's text is tokenized twice: with its own
  # tokenizer, and with that of the target to measure forgetting.
  assert len(jobs.jobs(done[1], done[0] / "w")) == 9
  assert _READING == {"read_filtered": 2, "prepare": 3, "build": 2}


def test_sources_run_first_and_others_run_with_every_seed_and_rate(done):
  folder, asked, _ = done

  names = [job.name for job in jobs.jobs(asked, folder / "w")]

  assert names == ["first"] + ["moved"] * 4 + ["scratch"] * 4


def test_the_summary_agrees_with_the_recorded_scores(done):
  folder, _, facts = done
  summary = facts["summary"]
  lr = summary["lrs"]["moved"]

  losses = [json.loads((
      folder / "w" / "moved" / f"seed_{seed}" / f"lr_{lr:g}" / "scores_test.json"
  ).read_text())["loss"] for seed in (0, 1)]

  assert summary["moved_test_loss"] == pytest.approx(sum(losses) / 2)
  assert summary["gain_nats_per_token"] == pytest.approx(
      summary["scratch_test_loss"] - summary["moved_test_loss"], abs=1e-9)
  assert summary["gain_low"] < summary["gain_nats_per_token"] < summary["gain_high"]
  bits = summary["gain_bits_per_byte"]
  assert bits["difference"] == pytest.approx(np.mean([
      first["bits_per_byte"] - second["bits_per_byte"] for first, second in zip(
          facts["runs"]["scratch"], facts["runs"]["moved"])]))


def test_the_test_loss_of_a_study_is_that_of_the_test_split(done):
  folder, _, facts = done
  lr = facts["summary"]["lrs"]["scratch"]
  trained = trained_lib.open(folder / "w" / "scratch" / "seed_0" / f"lr_{lr:g}")
  data, _ = trained.data(trained_lib.Reader())

  test, validation = (
      trained.score(data, split).metrics()["loss"] for split in ("test", "validation"))

  assert facts["runs"]["scratch"][0]["loss"] == pytest.approx(test) != validation


def test_a_source_costs_the_tokens_that_it_was_trained_on(done):
  folder, asked, facts = done
  trained = trained_lib.open(folder / "w" / "first")
  data, _ = trained.data(trained_lib.Reader())
  batches = data.train_batches(trained.run.train.rows, trained.run.seed)

  tokens = sum(int(next(batches)["weights"].sum())
               for _ in range(asked.runs["first"].train.steps))

  assert facts["sources"]["first"]["train_tokens"] == tokens


def test_the_rate_with_the_lowest_validation_loss_is_reported(done):
  folder, _, facts = done

  def best(lr):
    lines = [line for seed in (0, 1) for line in small_runs.metrics(
        folder / "w" / "scratch" / f"seed_{seed}" / f"lr_{lr:g}")]
    losses = [[line["loss"] for line in part if line["split"] == "validation"]
              for part in (lines[:len(lines) // 2], lines[len(lines) // 2:])]
    return sum(map(min, losses)) / 2

  chosen = facts["summary"]["lrs"]["scratch"]
  assert best(chosen) <= min(best(0.01), best(0.02))


def test_the_link_best_names_the_reported_run_with_the_lowest_validation_loss(done):
  folder, _, facts = done
  lrs = facts["summary"]["lrs"]

  losses = {f"{name}/seed_{seed}/lr_{lrs[name]:g}": facts["runs"][name][seed]
            ["validation_loss"] for name in ("moved", "scratch") for seed in (0, 1)}

  best = min(losses, key=lambda name: losses[name])
  assert facts["summary"]["best"] == best
  assert (folder / "w" / "best").readlink() == pathlib.Path(best)
  assert sources.open(folder / "w").path == sources.open(folder / "w" / best).path


def test_every_validation_has_the_tokens_and_flops_up_to_it(done):
  folder, asked, facts = done
  cost, run = facts["comparisons"][0]["cost"], facts["runs"]["scratch"][0]
  train = asked.runs["scratch"].train
  assert train.steps == 6 and train.eval_every == 2

  # The control still improves at its last step, up to which it took all that it cost.
  assert [one["step"] for one in facts["runs"]["scratch"]] == [6, 6]
  totals = [one["train_tokens"] for one in facts["runs"]["scratch"]]
  assert cost["tokens"]["control"] == pytest.approx(sum(totals) / 2)
  assert cost["gflops"]["control"] == pytest.approx(run["accounts"]["gflops"])
  reached = facts["summary"]["reached"]
  assert cost["gflops"]["treated"] == pytest.approx(
      run["accounts"]["gflops"] * sum(reached) / 2 / 6, rel=0.05)


def test_a_source_is_paid_for_by_the_targets_that_share_it(done):
  _, _, facts = done
  pair, source = facts["comparisons"][0], facts["sources"]["first"]

  tokens, gflops = (pair["payback"][unit] for unit in ("tokens", "gflops"))

  assert tokens["source"] == source["train_tokens"]
  assert gflops["source"] == source["accounts"]["gflops"] > 0
  saved = pair["cost"]["tokens"]["control"] - pair["cost"]["tokens"]["treated"]
  assert tokens["pays_from"] == -(-tokens["source"] // saved)
  assert facts["summary"]["pays_from"]["tokens"] == tokens["pays_from"]


def test_accounts_report_cost_and_forgetting(done):
  folder, _, facts = done
  accounts = facts["runs"]["moved"][0]["accounts"]
  specs = checkpoint.find(next((folder / "w" / "moved").glob("*/*"))).specs

  # Losses before and after are of different tokens, but of the same text.
  assert accounts["forgetting"] == pytest.approx(accounts["after"] - accounts["before"])
  assert accounts["forgetting"] > 0
  # Every validation measures it, the one of the best checkpoint among them.
  best = facts["runs"]["moved"][0]["step"]
  lines = {line["step"]: line for line in small_runs.metrics(
      folder / "w" / "moved" / "seed_0" / f"lr_{facts['summary']['lrs']['moved']:g}")
      if line["split"] == "validation"}
  assert list(lines) == [2, 4, 6]
  assert lines[best]["remembered"] == pytest.approx(accounts["after"])
  assert len({line["remembered"] for line in lines.values()}) == 3
  # A run from scratch has no source that it could forget.
  assert "forgetting" not in facts["runs"]["scratch"][0]["accounts"]
  learning = sum(spec.size for spec in specs.values())
  assert accounts["learning"] == learning
  assert accounts["slot_bytes"] == 2 * 4 * learning + 8
  assert accounts["gflops"] == pytest.approx(6 * accounts["gflops_a_step"])
  page = (folder / "w" / "report.html").read_text()
  assert "Gain against forgetting" in page and "learning params" in page
  assert "Forgetting of the source" in page
  scratch = small_runs.metrics(next((folder / "w" / "scratch").glob("*/*")))
  assert not any("remembered" in line for line in scratch)


def test_a_finished_study_trains_nothing_again(done, monkeypatch):
  folder, asked, facts = done
  monkeypatch.setattr(loop, "_loop", None)  # Any attempt to train fails.

  again = study.run(asked, folder / "w")

  assert again["comparisons"] == facts["comparisons"]
  assert again["summary"]["calls"] == facts["summary"]["calls"] + 1
  assert again["summary"]["seconds"] > facts["summary"]["seconds"]
  assert again["longer"] == {}  # With equal budgets no control is lengthened.


def test_the_report_links_to_files_and_has_samples_and_a_row_for_each_training(done):
  folder, _, facts = done
  page = html.parse(str(folder / "w" / "report.html"))
  [*rows] = csv.DictReader((folder / "w" / "results.csv").open())

  addresses = page.xpath("//a/@href")
  assert len(addresses) == 2 + 3 * (4 + 1)  # The tables; compared runs and the source.
  assert all((folder / "w" / address).is_file() for address in addresses)
  assert len(page.xpath("//table[@class='texts']")) == 2
  assert len(page.xpath("//h2[.='Transfer plans']/following-sibling::details"
                        "[following-sibling::h2]")) == 3
  assert collections.Counter(row["role"] for row in rows) == {
      "source": 1, "compared": 4, "tried": 4}
  assert [float(row["test_loss"]) for row in rows if row["role"] == "compared"] == [
      run["loss"] for name in ("moved", "scratch") for run in facts["runs"][name]]
  assert {row["steps"] for row in rows} == {"6"}


def test_the_environments_are_those_of_the_trainings_and_not_of_the_report(
    done, tmp_path):
  folder, asked, facts = done
  shutil.copytree(folder / "w", tmp_path / "w", symlinks=True)
  roles = {one["workdir"]: one["role"] for one in facts["trainings"]}
  trained = [(job, roles[str(job.workdir.relative_to(tmp_path / "w"))])
             for job in jobs.jobs(asked, tmp_path / "w")]
  here = json.loads((trained[0][0].workdir / "environment.json").read_text())
  here.pop("measured")  # Each training has its own.
  changed = {("first", "source"): "a" * 40, ("moved", "compared"): "b" * 40,
             ("moved", "tried"): "c" * 40}
  for job, role in trained:
    if commit := changed.get((job.name, role)):
      whole.write_json(job.workdir / "environment.json", {**here, "commit": commit})

  found = every_training.described(trained, [job for job, _ in trained])

  # What a rate that was not chosen was trained under made no number of the report.
  assert {(one["commit"], *one["names"]) for one in found["environments"]} == {
      ("a" * 40, "first"), ("b" * 40, "moved"), (here["commit"], "scratch")}
  assert [{**one, "names": 0} for one in facts["environments"]] == [here | {"names": 0}]


def test_writing_results_replaces_only_its_own_section(tmp_path, done):
  _, _, facts = done
  path = tmp_path / "RESULTS.md"

  report.write_section(path, "command one", facts)
  report.write_section(path, "command two", facts)
  once = path.read_text()
  report.write_section(path, "command one", facts)

  assert path.read_text() == once
  assert once.count("## Do apples help") == 2 and once.startswith("# Results")


def test_the_step_that_reaches_the_best_control_loss_is_reported(done):
  folder, _, facts = done
  lrs = facts["summary"]["lrs"]

  def curve(name, seed):
    lines = small_runs.metrics(
        folder / "w" / name / f"seed_{seed}" / f"lr_{lrs[name]:g}")
    return [(line["step"], line["loss"]) for line in lines
            if line["split"] == "validation"]

  for seed, reached in enumerate(facts["comparisons"][0]["reached"]):
    goal = min(loss for _, loss in curve("scratch", seed))
    steps = [step for step, loss in curve("moved", seed) if loss <= goal]
    assert reached == (steps[0] if steps else None)


def test_layers_of_runs_with_other_tokens_are_compared_where_both_read_the_same(done):
  _, _, facts = done
  transfer = facts["comparisons"][0]["transfer"]

  assert transfer["moved"]["absent"] == [] == [*transfer["before"]["absent"]]
  [layer] = transfer["moved"]["layers"]
  assert (layer["layer"], layer["source"]) == (0, 0) and 0.5 < layer["cka"] < 1
  # `o`, `n`, `c` and so on are letters of both texts, and others are not.
  assert 0.5 < transfer["before"]["overlap"] < 1


@pytest.mark.parametrize("runs, pairs, message", [
    ({"a": ("b", None), "b": ("a", None)}, (("a", "b"),), "go in a circle"),
    ({"a": ("c", None)}, (("a", "a"),), "source.run is 'c', which is none of a"),
    ({"a": (None, None)}, (("a", "b"),), "pairs name b, not among the runs a"),
])
def test_an_inconsistent_study_is_refused(runs, pairs, message):
  asked = config.Study(
      question="?", pairs=pairs,
      runs={name: _run("x", source) for name, (source, _) in runs.items()})

  with pytest.raises(ValueError, match=message):
    jobs.jobs(asked, "w")


@pytest.fixture(scope="module", name="short")
def _short(tmp_path_factory):
  """Runs a study of a short model, whose control also trains on half of the data."""
  folder = tmp_path_factory.mktemp("short")
  text = folder / "t.txt"
  text.write_text("".join(f"{'so ' * (i % 3)}{i} dogs!\n" for i in range(60)))
  run = dataclasses.replace(
      _run(text), model=config.Decoder(
          num_layers=1, width=8, num_heads=2, max_length=20),
      data=config.Data(name="files", train=str(text), length=20))
  half = dataclasses.replace(run, data=dataclasses.replace(run.data, fraction=0.5))
  return folder, study.run(config.Study(
      question="?", runs={"a": run, "b": run, "half": half},
      pairs=(("a", "b"), ("a", "half")), seeds=(0,), samples=2), folder / "w")


def test_controls_on_several_amounts_of_data_give_the_effective_data(short):
  folder, facts = short

  amounts = [json.loads((
      folder / "w" / name / "seed_0" / "lr_0.02" / "data.json").read_text())["splits"][
          "train"]["bytes"] for name in ("half", "b")]
  for pair in facts["comparisons"]:
    found = pair["effective_data"]
    assert found["controls"] == ["half", "b"] and found["unit"] == "bytes"
    assert [found["smallest"], found["largest"]] == amounts
    assert found["own"] == amounts[1] > 1.5 * amounts[0]
  # The treated run is the control, so it is worth what it was trained on.
  assert facts["comparisons"][0]["effective_data"]["transferred"] == pytest.approx(0)
  assert "Effective data: a, trained on" in " ".join(
      report.study_text(facts).split())


def test_samples_leave_room_for_an_answer_in_a_short_model(short):
  _, facts = short

  samples = facts["runs"]["a"][0]["samples"]
  assert len(samples) == 2 and all(len(sample["prompt"]) < 18 for sample in samples)
  assert "Samples of the test split" in report.study_text(facts)


def test_a_mistake_in_a_run_is_reported_before_any_run_trains(tmp_path):
  text = tmp_path / "t.txt"
  text.write_text("a dog\n" * 60)
  wrong = dataclasses.replace(
      _run(text, "first"), strategy=config.Strategy(name="auto", budget=5))
  asked = config.Study(question="?", runs={"first": _run(text), "wrong": wrong},
                       pairs=(("wrong", "wrong"),), seeds=(0,))

  with pytest.raises(errors.UserError, match="run 'wrong': strategy.budget is 5"):
    study.run(asked, tmp_path / "w")
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("broken, message", [
    ({"data": {"train": "none.txt"}}, "run 'moved': data.train: there is no file none"),
    ({"data": {"validation": "latin1.txt"}}, "run 'moved': latin1.txt:1: invalid UTF"),
    ({"tokenizer": {"kind": "file", "path": "none.json"}}, "run 'moved': .*none.json"),
    ({"source": {"path": "nowhere"}}, "run 'moved': .*nowhere: there is no such file"),
    ({"source": {"path": "latin1.txt"}}, "run 'moved': .*latin1.txt"),
    ({"remembered": {"train": "none.txt"}}, "remembered: data.train: there is no file"),
])
def test_the_files_of_all_runs_are_checked_before_the_first_one_trains(
    tmp_path, monkeypatch, broken, message):
  monkeypatch.chdir(tmp_path)
  small_runs.write_lines(tmp_path / "a.txt")
  (tmp_path / "latin1.txt").write_bytes(b"\xff\n")
  good, bad = _run("a.txt"), _run("a.txt")
  (part, values), = broken.items()
  parts = {"data": bad.data, "tokenizer": bad.tokenizer, "source": config.Source(),
           "remembered": _run("a.txt").data}
  for name, value in values.items():
    setattr(parts[part], name, value)
  bad.source = parts["source"] if part == "source" else None
  asked = config.Study(
      question="Does it begin?", runs={"scratch": good, "moved": bad},
      pairs=(("moved", "scratch"),), accounts=True,
      remembered=parts["remembered"])

  with pytest.raises(errors.UserError, match=message):
    study.run(asked, tmp_path / "w")

  assert not (tmp_path / "w").exists()
