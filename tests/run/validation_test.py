"""Tests for validation by a metric of texts during training."""

import dataclasses
import json
import random

import pytest
import sacrebleu

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.run import loop
from transfer_gen.run import trained
from transfer_gen.transfer import plan as plan_lib


def configured(folder, **train):
  """Configures a model of pairs that learns to write words in capitals."""
  generator = random.Random(0)
  words = [" ".join(generator.choices(["ab", "ba", "cab"], k=3)) for _ in range(300)]
  (folder / "pairs.jsonl").write_text("".join(
      json.dumps({"a": word, "b": word.upper()}) + "\n" for word in words))
  return small_runs.configure(
      folder / "pairs.jsonl", small_runs.DECODER, steps=6,
      data=config.Data(name="files", train=str(folder / "pairs.jsonl"), length=32,
                       input_field="a", target_field="b"),
      decoding=config.Decoding(max_tokens=12),
      train=config.Train(**{
          "steps": 6, "batch_size": 8, "log_every": 3, "eval_every": 2,
          "checkpoint_every": 6, "metric_documents": 5, **train}))


def test_the_best_checkpoint_is_that_of_the_metric(tmp_path, capsys):
  run = configured(tmp_path, metric="chrf")

  result = loop.train(run, tmp_path / "w")

  lines = [line for line in small_runs.metrics(tmp_path / "w")
           if line["split"] == "validation"]
  highest = max(lines, key=lambda line: line["chrf"])
  assert [line["step"] for line in lines] == [2, 4, 6]
  assert result["best_step"] == highest["step"]
  assert result["best_chrf"] == highest["chrf"]
  assert result["best_validation_loss"] == highest["loss"]
  # The checkpoint writes the texts that were scored.
  opened = trained.open(tmp_path / "w")
  documents = opened.data()[1]["validation"][:5]
  inputs = [document.input for document in documents]
  answers = [texts[0] for texts in opened.answers(
      inputs, config.Decoding(max_tokens=12)).texts]
  again = sacrebleu.corpus_chrf(answers, [[d.target for d in documents]]).score
  assert opened.step == highest["step"] and again == pytest.approx(highest["chrf"])
  assert f"chrf {highest['chrf']:.2f} (best so far)" in capsys.readouterr().out
  assert "<h2>Validation, chrf</h2>" in (tmp_path / "w" / "report.html").read_text()


def test_patience_counts_validations_by_the_metric(tmp_path):
  # Untrained, no answer is ever right, so no validation is better than the first.
  run = configured(tmp_path, metric="exact_match", patience=1)

  result = loop.train(run, tmp_path / "w")

  assert (result["step"], result["best_step"]) == (4, 2)
  lines = [line for line in small_runs.metrics(tmp_path / "w")
           if line["split"] == "validation"]
  assert lines[1]["loss"] < lines[0]["loss"]  # By its loss it would have gone on.


@pytest.mark.parametrize("fields, message", [
    (dict(metric="blue"), "'blue', must be one of .* Nearest: bleu."),
    (dict(metric="rouge"), "must be one of .*rougeL"),
    (dict(metric="novelty"), "train.metric is 'novelty', must be one of"),
    (dict(metric="bleu", metric_documents=-1), "metric_documents is -1")])
def test_a_metric_that_cannot_judge_is_refused_before_anything_is_read(
    tmp_path, fields, message):
  with pytest.raises(errors.UserError, match=message):
    loop.train(configured(tmp_path, **fields), tmp_path / "w")

  assert not (tmp_path / "w").exists()


def _remembering(folder, **fields):
  """Configures a run with texts of a source, and returns these texts' config beside."""
  for name, word in (("mine", "dogs"), ("theirs", "apples")):
    (folder / f"{name}.txt").write_text("".join(
        f"{i} {word} or {i % 9} more\n" for i in range(150)))
  texts = config.Data(
      name="files", train=str(folder / "theirs.txt"), packing="joined", length=0)
  run = small_runs.configure(
      folder / "mine.txt", dataclasses.replace(small_runs.DECODER, tied=False),
      steps=4, eval_every=2, **fields)
  run.remembered = texts
  return run, texts


@pytest.mark.parametrize("stored", [False, True])
def test_a_validation_measures_the_texts_of_the_source(tmp_path, stored):
  head = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=(
      plan_lib.Group(name="head", params="head/.*"),
      plan_lib.Group(name="body", params=".*", unfreeze_step=None)))
  run, texts = _remembering(tmp_path, **(
      dict(features=config.Features(), transfer=head) if stored else {}))

  loop.train(run, tmp_path / "w")

  lines = [line for line in small_runs.metrics(tmp_path / "w")
           if line["split"] == "validation"]
  opened = trained.open(tmp_path / "w", 4)
  texts.length = run.data.length
  data = trained.Reader().data(texts, opened.tokenizer, opened.run.model)
  wanted = opened.score(data, "test").metrics()["bits_per_byte"]
  assert lines[-1]["step"] == 4
  assert lines[-1]["remembered"] == pytest.approx(wanted, rel=1e-4)
  assert lines[-1]["remembered"] != pytest.approx(lines[-1]["bits_per_byte"], rel=1e-3)


def test_a_mistake_in_the_texts_of_the_source_names_them(tmp_path):
  run, texts = _remembering(tmp_path)
  texts.train = "nowhere.txt"

  with pytest.raises(errors.UserError, match="^remembered: data.train: there is no"):
    loop.train(run, tmp_path / "w")

  assert not (tmp_path / "w").exists()
