"""Tests for studies whose trainings run beside each other."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import time

from etils import epath
import pytest

from benchmarks import trust_kills
from tests import killing
from tests import processes
from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.study import study
from transfer_gen.study import workers
from transfer_gen.transfer import plan

_CLOCKS = ("seconds", "train_seconds", "calls", "mean_seconds")


def _study(folder):
  """A study with sources, a source that diverges, and a plan that a closure writes."""
  run = small_runs.configure(
      folder / "a.txt", small_runs.RNN, steps=3, length=30, lr=0.01, eval_every=1)
  rules = (plan.Rule(target="(.*)", source=r"\1"),)
  moved = dataclasses.replace(
      run, source=config.Source(run="first"), transfer=lambda run: plan.TransferPlan(
          rules=rules, groups=(plan.Group(name="all", params=".*"),)))
  return config.Study(
      question="?", runs={
          "first": run, "moved": moved, "scratch": run,
          "sick": run.with_values("optim", lr=1e30, weight_decay=1e20, clip_norm=0.0),
          "lost": dataclasses.replace(run, source=config.Source(run="sick"))},
      pairs=(("moved", "scratch"), ("lost", "scratch")), seeds=(0, 1), samples=1)


def _without_clocks(found):
  if isinstance(found, dict):
    return {key: _without_clocks(value) for key, value in found.items()
            if key not in _CLOCKS}
  return [_without_clocks(one) for one in found] if isinstance(found, list) else found


@pytest.fixture(scope="module", name="found")
def _found(tmp_path_factory):
  """What a study found with one training at once and with two, and what it printed."""
  folder, printed = epath.Path(tmp_path_factory.mktemp("workers")), {}
  small_runs.write_lines(folder / "a.txt")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in {"NUM_CPU_DEVICES": "8", "COMPILATION_CACHE_DIR": str(
        pathlib.Path(__file__).parents[1] / ".cache" / "xla")}.items():
      patch.setenv(f"JAX_{name}", value)  # As the process of the tests has them.
    for at_once in (1, 2):
      with open(folder / f"{at_once}.txt", "w") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
          study.run(_study(folder), folder / f"w{at_once}", at_once=at_once)
      printed[at_once] = (folder / f"{at_once}.txt").read_text()
  return folder, printed


def test_trainings_at_once_find_what_one_after_another_find(found):
  folder, _ = found
  # Messages name the folder of their study.
  alone, together = (_without_clocks(json.loads(
      (folder / f"w{at_once}" / "results.json").read_text().replace(
          str(folder / f"w{at_once}"), "W"))) for at_once in (1, 2))

  assert alone == together
  assert alone["comparisons"] and alone["summary"]["moved_test_loss"] > 0
  failed = [[one["run"], one["diverged"]] for one in together["failures"]]
  assert failed == [["sick, seed 0, lr 1e+30", True],
                    ["lost, seed 0, lr 0.01", False], ["lost, seed 1, lr 0.01", False]]


def test_a_training_beside_others_leaves_what_one_alone_leaves(found):
  folder, _ = found

  for workdir in ("first", "moved/seed_0/lr_0.01", "scratch/seed_1/lr_0.01"):
    assert trust_kills.trained(folder / "w1" / workdir) == (
        trust_kills.trained(folder / "w2" / workdir))


def test_each_training_beside_others_says_two_lines_and_logs_the_rest(found):
  folder, printed = found
  lines = printed[2].splitlines()

  begun = [line for line in lines if line.endswith("begins")]
  assert [re.match(r"\[(\d+)/8\]", line)[1] for line in begun] == list("123456")
  assert sum("ended after" in line for line in lines) == 5
  assert not any(line.startswith("step ") for line in lines)
  assert "step 1/3: loss" in printed[1]  # Alone, a training says all of it.
  log = (folder / "w2" / "moved" / "seed_0" / "lr_0.01" / "training.log").read_text()
  assert "step 3/3: validation loss" in log
  assert "are not finite" in (folder / "w2" / "sick" / "training.log").read_text()


def test_a_source_ends_before_what_reads_it_begins(found):
  _, printed = found
  at = lambda text: printed[2].index(text)

  assert at("first, seed 0, lr 0.01: ended") < at("moved, seed 0, lr 0.01: begins")
  # What needs no source goes meanwhile.
  assert at("scratch, seed 0, lr 0.01: begins") < at("first, seed 0, lr 0.01: ended")


_CONFIG = """
import dataclasses
from transfer_gen import config

def get_study():
  run = config.Run(
      model=config.Recurrent(cell="rnn", num_layers=1, embed_width=8, hidden_width=8),
      data=config.Data(name="files", train="a.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1, lr=0.01),
      train=config.Train(steps=200, batch_size=8, log_every=10, eval_every=100,
                         checkpoint_every=1000))
  other = dataclasses.replace(
      run, optim=dataclasses.replace(run.optim, schedule="constant"))
  return config.Study(question="?", runs={"a": run, "b": other}, pairs=(("a", "b"),),
                      samples=0)
"""


def _alive(mark):
  """Processes that were started with an environment that holds a mark."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    with contextlib.suppress(OSError):
      if mark in path.read_bytes():
        found.append(path.parent.name)
  return found


def _wait(condition):
  end = time.monotonic() + 120
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


@pytest.mark.long
def test_a_study_that_is_interrupted_or_killed_leaves_no_process_and_goes_on(
    tmp_path, monkeypatch):
  small_runs.write_lines(tmp_path / "a.txt")
  (tmp_path / "config.py").write_text(_CONFIG)
  words = ("study", "--config=config.py", "--workdir=w", "--jobs=2")
  # First, as it starts the process from which others are forked, without the mark.
  killing.finish(tmp_path, *words[:2], "--workdir=alone")
  mark = f"MARK_OF_{os.getpid()}"
  monkeypatch.setenv(mark, "1")
  workdirs = [tmp_path / "w" / name / "seed_0" / "lr_0.01" for name in "ab"]
  logs = [workdir / "training.log" for workdir in workdirs]
  steps = lambda workdir: sum(
      line["split"] == "train" for line in small_runs.metrics(workdir))

  for number in (signal.SIGTERM, signal.SIGKILL):
    before = [steps(one) if one.exists() else 0 for one in workdirs]
    process = processes.start(processes.COMMAND, *words, folder=tmp_path)
    _wait(lambda before=before: all(
        (one / "metrics.jsonl").exists() and steps(one) > count
        for one, count in zip(workdirs, before)))
    assert len(_alive(mark.encode())) >= 3
    process.send_signal(number)
    code, printed = process.wait(), process.stdout.read()
    assert code == (143 if number == signal.SIGTERM else -9)
    assert "Traceback" not in printed
    _wait(lambda: not _alive(mark.encode()))
    for log in logs:  # Each has saved a step that no other rule would have saved.
      assert re.search(r"Interrupted after step \d+, with a checkpoint",
                       log.read_text().splitlines()[-1]), log.read_text()
  printed = killing.finish(tmp_path, *words)

  assert "validation loss" in printed
  for log in logs:
    assert log.read_text().count("goes on from step") == 2
    assert "Traceback" not in log.read_text()
  for workdir in workdirs:
    assert trust_kills.trained(workdir) == trust_kills.trained(
        tmp_path / "alone" / workdir.relative_to(tmp_path / "w"))


def test_a_worker_that_the_system_kills_fails_its_training_alone(found, monkeypatch):
  folder, _ = found
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
  monkeypatch.setattr(workers.worker, "train", _killed_or_ended)
  one, other = (dataclasses.replace(
      job, workdir=folder / job.name) for job in study.jobs_lib.jobs(
          _study(folder), folder)[:2])
  those = workers.Workers(2)
  those.begin(one)
  those.begin(dataclasses.replace(other, seed=7))
  ended = {}
  while len(ended) < 2:
    ended |= {job.name: ending for job, ending in those.wait(10)}
  those.begin(dataclasses.replace(one, seed=7))  # Another process takes its place.
  [(_, again)] = those.wait(60)
  those.close()

  assert "was ended from outside" in ended[one.name].lines[0]
  assert ended[other.name].facts == again.facts == {"seconds": 1}


def _killed_or_ended(packed):
  job, _ = workers.worker.pickle.loads(packed)
  if job.seed != 7:
    os.kill(os.getpid(), signal.SIGKILL)
  return workers.one_training.Ending(facts={"seconds": 1})


@pytest.mark.parametrize("words, message", [
    (["--jobs=0"], "--jobs is 0, must be at least 1"),
    (["--jobs=-1"], "--jobs is -1, must be at least 1"),
    (["--jobs=two"], "--jobs"), (["--jobs=1.5"], "--jobs")])
def test_a_number_of_trainings_that_is_none_is_refused(
    words, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  small_runs.write_lines(tmp_path / "a.txt")
  (tmp_path / "config.py").write_text(_CONFIG)

  assert message in cli.refused(
      capsys, "study", "--config=config.py", "--workdir=w", *words)
  assert not (tmp_path / "w").exists()
  with pytest.raises(errors.UserError, match="must be at least 1"):
    study.run(_study(tmp_path), tmp_path / "w", at_once=0)


def test_who_shares_an_accelerator_is_told_how_its_memory_is_divided(monkeypatch):
  monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  assert not workers.sharing("cpu", 4)
  assert "4 trainings at once" in workers.sharing("gpu", 4)
  assert "PREALLOCATE=false); if" in workers.sharing("gpu", 4)
  monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
  # Four trainings and the study: five shares.
  assert "MEM_FRACTION to 0.19 at most" in workers.sharing("gpu", 4)
  with pytest.raises(errors.UserError, match="a TPU belongs to one process"):
    workers.sharing("tpu", 2)
