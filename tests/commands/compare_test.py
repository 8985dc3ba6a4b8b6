"""Tests for `transfer-gen compare`: what it compares, writes and refuses."""

import csv
import json
import shutil

from lxml import html
import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen.run import loop
from transfer_gen.train import score as score_lib


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """Trains `short` and `long` on one file, and `other` on another."""
  folder = tmp_path_factory.mktemp("compare")
  small_runs.write_lines(folder / "a.txt")
  small_runs.write_lines(folder / "b.txt", " and more")
  for name, file, steps in (("short", "a.txt", 2), ("long", "a.txt", 4),
                            ("other", "b.txt", 2)):
    loop.train(small_runs.configure(
        folder / file, small_runs.RNN, steps=steps, eval_every=2, lr=0.02),
        folder / name)
  return folder


@pytest.fixture(name="here")
def _here(made, monkeypatch):
  monkeypatch.chdir(made)
  yield made
  for path in made.glob("out*"):
    shutil.rmtree(path)


def test_runs_without_a_study_are_compared_on_their_test_texts(
    here, capsys, monkeypatch):
  cli.run(capsys, "evaluate", "--workdir=long")
  scores = (here / "long" / "scores_test.json").read_text()

  printed = cli.run(
      capsys, "compare", "a=long", "short", "--samples=2", "--output=out")

  # What was scored stays as it is, and all scores are read the next time.
  assert (here / "long" / "scores_test.json").read_text() == scores
  monkeypatch.setattr(score_lib, "make_scorer", None)
  again = cli.run(capsys, "compare", "a=long", "short", "--samples=0")
  summary = json.loads(printed.splitlines()[-1])
  assert json.loads(again.splitlines()[-1]) == summary
  losses = {name: json.loads((here / name / "scores_test.json").read_text())["loss"]
            for name in ("long", "short")}
  assert summary["gain_nats_per_token"] == pytest.approx(
      losses["short"] - losses["long"])
  facts = json.loads((here / "out" / "results.json").read_text())
  assert facts["runs"]["a"][0]["loss"] == losses["long"]
  [first, second] = csv.DictReader((here / "out" / "results.csv").open())
  assert (first["run"], first["steps"], second["run"], second["steps"]) == (
      "a", "4", "short", "2")
  assert float(second["test_loss"]) == losses["short"]
  page = html.parse(str(here / "out" / "report.html"))
  assert "a against short: " in page.xpath("string(//p[@class='answer'])")
  assert "../long/report.html" in page.xpath("//a/@href")
  for link in page.xpath("//a/@href"):
    assert (here / "out" / link).resolve().exists(), link
  assert page.xpath("string(//pre[@class='command'])") == (
      "transfer-gen compare a=long short --samples=2 --output=out")
  assert "a and short had other budgets: train.steps is 4 and 2." in printed
  # The same two test documents, of both runs, each once.
  given = [[tuple(map(json.loads(line).get, ("prompt", "reference"))) for line in (
      here / "out" / "samples" / name / "samples.jsonl").read_text().splitlines()]
      for name in ("a", "short")]
  assert given[0] == given[1] and len({*given[0]}) == 2
  assert not (here / "long" / "samples.jsonl").exists()


@pytest.mark.parametrize("words, parts", [
    (["long"], ["needs two runs at least"]),
    (["long", "none", "a.txt"], [
        "none: there is no such folder", "a.txt: not the workdir of a run"]),
    (["short", "other"], [
        "'short' and 'other': they are tested on other documents", "data.train",
        "Give both the same test texts", "evaluate --workdir=short --against=other"]),
    (["a=long", "a=short"], ["long and short are both called 'a'", "NAME=short"]),
    (["long", "b=./long"], ["./long: it is given twice"]),
    (["long", "out_cut"], [
        "out_cut: the run is not finished: validated up to step 2 of 4"]),
    (["long", "out_begun"], ["out_begun: the run has not been validated yet"]),
])
def test_what_cannot_be_compared_is_refused_in_one_message(here, capsys, words, parts):
  for name, end in (("out_cut", 3), ("out_begun", 1)):
    shutil.copytree(here / "long", here / name)
    path = here / name / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines(keepends=True)
            if json.loads(line)["step"] <= end]
    path.write_text("".join(kept))

  message = cli.refused(capsys, "compare", *words, "--output=out")

  for part in parts:
    assert part in message
  assert not (here / "out").exists()


def test_an_output_that_is_there_is_refused_before_anything_is_read(here, capsys):
  (here / "out").mkdir()

  message = cli.refused(capsys, "compare", "none", "nothing", "--output=out")

  assert "out: is there already. Take another --output." in message
