"""Tests for metrics of written texts in studies and their reports."""

import dataclasses
import json

import numpy as np
import pytest
import sacrebleu

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.metrics import measures
from transfer_gen.study import report
from transfer_gen.study import study
from transfer_gen.study import task_metrics

_SEEDS = (0, 1)


@pytest.fixture(scope="module", name="done")
def _done(tmp_path_factory):
  """Runs a study of one pair, two seeds and two metrics."""
  folder = tmp_path_factory.mktemp("study")
  (folder / "pairs.jsonl").write_text("".join(
      json.dumps({"a": f"say {i}", "b": f"said {i}!"}) + "\n" for i in range(150)))
  run = small_runs.configure(
      folder / "pairs.jsonl", small_runs.DECODER, steps=4,
      data=config.Data(name="files", train=str(folder / "pairs.jsonl"), length=24,
                       input_field="a", target_field="b"),
      decoding=config.Decoding(max_tokens=8))
  asked = config.Study(
      question="Does a higher rate help?", pairs=(("fast", "slow"),), seeds=_SEEDS,
      runs={"slow": run, "fast": dataclasses.replace(
          run, optim=config.Optim(warmup_steps=1, lr=0.1))},
      samples=0, metrics=("chrf", "distinct"))
  return folder, asked, study.run(asked, folder / "w")


def _outputs(folder, name):
  """Returns outputs and references of all seeds of a run."""
  lines = [json.loads(line) for path in sorted((folder / "w" / name).glob(
      "seed_*/lr_*/outputs_test.jsonl")) for line in path.read_text().splitlines()]
  return [line["output"] for line in lines], [line["references"][0] for line in lines]


def test_the_summary_has_each_metric_of_what_the_runs_wrote(done):
  folder, _, facts = done

  for name in ("fast", "slow"):
    outputs, references = _outputs(folder, name)
    half = len(outputs) // 2
    scores = [sacrebleu.corpus_chrf(outputs[part], [references[part]]).score
              for part in (slice(half), slice(half, None))]
    assert facts["summary"][f"{name}_test_chrf"] == pytest.approx(np.mean(scores))
    assert f"{name}_test_distinct2" in facts["summary"]


def test_a_pair_is_compared_by_each_metric_over_all_seeds(done):
  folder, _, facts = done
  found = facts["comparisons"][0]["metrics"]["chrf"]

  # The outputs of each seed are a corpus of their own.
  means = [np.mean([
      sacrebleu.corpus_chrf(outputs[part], [right[part]]).score
      for part in (slice(len(outputs) // 2), slice(len(outputs) // 2, None))])
      for outputs, right in (_outputs(folder, "fast"), _outputs(folder, "slow"))]
  assert found["difference"] == pytest.approx(means[0] - means[1])
  assert found["low"] < found["difference"] < found["high"]
  runs = facts["runs"]
  assert found["seeds_ahead"] == sum(
      runs["fast"][seed]["metrics"]["chrf"] > runs["slow"][seed]["metrics"]["chrf"]
      for seed in _SEEDS)
  assert facts["summary"]["gain_chrf"]["difference"] == found["difference"]


def test_tables_and_pages_show_metrics_beside_losses(done):
  folder, _, facts = done

  section = report.study_markdown("study", facts)
  page = (folder / "w" / "report.html").read_text()

  header = next(line for line in section.splitlines() if line.startswith("| run"))
  assert "| test | bits/byte | chrf | distinct1 | distinct2 | train tokens |" in header
  score = facts["runs"]["fast"][0]["metrics"]["chrf"]
  for text in (section, page, " ".join(report.study_text(facts).split())):
    assert f"{score:.2f} (" in text and "fast against slow, chrf: " in text
  stored = json.loads((folder / "w" / "results.json").read_text())
  assert stored["runs"]["fast"][0]["metrics"]["chrf"] == score


def test_seeds_are_ahead_by_the_direction_of_the_metric():
  def run(*outputs):
    written = measures.Evidence(
        outputs=outputs, references=[["a b"]] * len(outputs))
    return {"metrics": {"chrf": 1.0, "ter": 1.0}, "measured": {
        name: measures.METRICS[name].measure(written) for name in ("chrf", "ter")}}

  found = task_metrics.compare(
      [run("a b", "a b"), run("a b", "a b"), run("x y", "a b")],
      [run("a c", "a b"), run("a b", "a b"), run("a b", "a b")])

  # The first of three is better on one seed, as good on another, and worse on a third.
  assert found["chrf"]["seeds_ahead"] == found["ter"]["seeds_ahead"] == 1


def test_a_metric_that_one_seed_has_no_score_of_is_left_out():
  written = measures.Evidence(outputs=["a b"], references=[["a b"]])
  run = lambda ter: {"metrics": {"chrf": 1.0, "ter": ter}, "measured": {
      name: measures.METRICS[name].measure(written) for name in ("chrf", "ter")}}

  found = task_metrics.compare([run(1.0), run(None)], [run(1.0)] * 2)
  summary = task_metrics.summary(
      {"a": [run(1.0), run(None)], "b": [run(1.0), run(3.0)]}, {"metrics": found})

  assert list(found) == ["chrf"]
  assert summary["a_test_ter"] is None and summary["b_test_ter"] == 2.0


def test_an_unknown_metric_is_refused_before_anything_trains(done, tmp_path):
  asked = dataclasses.replace(done[1], metrics=("chrff",))

  with pytest.raises(errors.UserError, match="metrics.0. is .* Nearest: chrf"):
    study.run(asked, tmp_path / "w")

  assert not (tmp_path / "w").exists()
