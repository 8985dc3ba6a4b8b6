"""Tests for which learning rates and which run of a study are the best."""

from etils import epath

from transfer_gen import config
from transfer_gen.study import jobs
from transfer_gen.study import pairs


def test_only_runs_that_pairs_connect_compete_for_the_best(monkeypatch):
  bits = {"a": 3.0, "b": 2.0, "c": 1.5, "x": 1.0, "y": 1.1}
  monkeypatch.setattr(pairs.logged, "metrics", lambda job: [
      {"split": "validation", "bits_per_byte": bits[job.name]}])
  monkeypatch.setattr(pairs.best_link, "write", lambda *args: None)
  tested = [jobs.Job(name=name, seed=0, lr=1.0, workdir=epath.Path("w") / name,
                     run=config.Run()) for name in bits]

  # x and y may be of other texts, whose losses say nothing beside those of a to c.
  assert pairs.mark_best((("a", "b"), ("x", "y"), ("c", "b")), tested, "w") == "c"


def test_rates_and_best_are_chosen_by_the_metric_that_a_run_is_validated_by(
    monkeypatch):
  # Of each training the losses and the BLEU of two validations.
  found = {0.1: ((2.0, 9.0), (1.5, 8.0)), 0.2: ((3.0, 7.0), (2.5, 10.0))}
  monkeypatch.setattr(pairs.logged, "metrics", lambda job: [
      {"split": "validation", "loss": loss, "bits_per_byte": loss, "bleu": bleu}
      for loss, bleu in found[job.lr]])
  monkeypatch.setattr(pairs.best_link, "write", lambda *args: None)
  tried = lambda metric: [jobs.Job(
      name="a", seed=0, lr=lr, workdir=epath.Path("w") / str(lr),
      run=config.Run(train=config.Train(metric=metric))) for lr in found]

  assert pairs.best_lr(tried("bleu")) == 0.2 and pairs.best_lr(tried("loss")) == 0.1
  assert pairs.mark_best([("a", "b")], tried("bleu"), "w") == "0.2"
  assert pairs.mark_best([("a", "b")], tried("loss"), "w") == "0.1"
  assert pairs.judged_by([*tried("bleu"), *tried("chrf")]) == "bits_per_byte"
