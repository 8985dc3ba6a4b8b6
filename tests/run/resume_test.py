"""Tests that a run that signals ended goes on to the end of an uninterrupted run."""

import json
import re
import signal
import time

import numpy as np
import pytest

from tests import processes
from tests import small_runs
from tests.commands import cli
from tests.comparing import assert_same_bits
from transfer_gen.run import records

# A late group, dropout, buckets, noise and a weight that changes: each has a state that
# resuming must restore.
CONFIG = '''
from transfer_gen import config
from transfer_gen.transfer import plan
Group, Rule = plan.Group, plan.Rule

def get_config(steps="40"):
  return config.Run(
      model=config.Decoder(num_layers=1, width=16, num_heads=2, max_length=32,
                           dropout=0.1),
      data=config.Data(name="files", train="pairs.tsv", input_field="a",
                       target_field="b", length=24, buckets=(12,),
                       corrupt=config.Corrupt(word_dropout=0.2)),
      objective=config.Objective(label_smoothing=0.1, z_loss=config.Term(
          weight=1e-3, schedule="cyclic")),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=2),
      train=config.Train(steps=int(steps), batch_size=8, log_every=5,
                         eval_every=10, checkpoint_every=10),
      transfer=plan.TransferPlan(
          rules=(Rule(target=".*", source=None),),
          groups=(Group(name="body", params="layer_.*", unfreeze_step=25),
                  Group(name="rest", params=".*"))))
'''


def _start(folder, name, *words, program=processes.COMMAND):
  return processes.start(program, "train", "--config=config.py", f"--workdir={name}",
                         *words, folder=folder)


def _end(process):
  """Returns the exit code of a process, and what it printed."""
  log = process.stdout.read()
  return process.wait(), log


def _wait_for_step(folder, step):
  deadline = time.monotonic() + 600
  while time.monotonic() < deadline:
    if any(path.name.isdigit() and int(path.name) >= step
           for path in (folder / "checkpoints").glob("*")):
      return
    time.sleep(0.02)
  raise AssertionError(f"no checkpoint of step {step}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume")
  generator = np.random.default_rng(0)
  words = ["".join(generator.choice(list("abcdef"), size=generator.integers(2, 9)))
           for _ in range(240)]
  lines = ["a\tb"] + [f"{word}\t{word[::-1]}" for word in words]
  (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
  (folder / "config.py").write_text(CONFIG)
  code, log = _end(_start(folder, "whole"))
  assert code == 0, log
  killed = _start(folder, "killed")
  _wait_for_step(folder / "killed", 10)
  killed.send_signal(signal.SIGKILL)
  assert killed.wait() == -signal.SIGKILL
  stopped = _start(folder, "killed")
  _wait_for_step(folder / "killed", 20)
  stopped.send_signal(signal.SIGTERM)
  code, log = _end(stopped)
  assert code in (0, 128 + signal.SIGTERM), log
  (folder / "stopped.txt").write_text(log)
  code, log = _end(_start(folder, "killed"))
  assert code == 0, log
  return folder


def test_a_killed_run_continues_from_its_last_checkpoint(folder):
  assert "goes on from step" in (folder / "stopped.txt").read_text()


def test_a_signal_ends_a_run_after_a_step_that_it_has_saved(folder):
  log = (folder / "stopped.txt").read_text()

  # The last steps may be done before the signal arrives.
  assert "Interrupted after step" in log or '"step": 40' in log, log
  assert "Traceback" not in log


def test_a_run_that_was_killed_and_stopped_ends_with_bitwise_equal_params(folder):
  whole, killed = (small_runs.params(folder / run, 40) for run in ("whole", "killed"))

  assert_same_bits(killed, whole)
  # The steps after the kill do change the params.
  middle = small_runs.params(folder / "whole", 30)
  assert not np.array_equal(middle["embed/embedding"], whole["embed/embedding"])


def test_a_run_that_was_killed_and_stopped_records_the_same_metrics(folder):
  def lines(workdir):
    return [{key: value for key, value in line.items()
             if key not in ("seconds", "tokens_per_second")}
            for line in records.read_metrics(folder / workdir)]

  assert lines("killed") == lines("whole")
  assert [line["step"] for line in lines("killed") if line["split"] == "train"] == [
      *range(5, 41, 5)]


def test_the_late_group_learns_after_its_unfreeze_step(folder):
  early, late = (small_runs.params(folder / "whole", step) for step in (30, 40))
  name = "layer_0/mlp/up/kernel"

  assert not np.array_equal(early[name], late[name])


def test_the_workdir_contains_the_documented_files(folder):
  names = {path.name for path in (folder / "whole").iterdir()}

  assert names >= {
      "config.json", "plan.json", "audit.txt", "audit.json", "data.json",
      "environment.json", "tokenizer", "digests.json", "metrics.jsonl", "checkpoints",
      "tensorboard", "report.html"}
  data = json.loads((folder / "whole" / "data.json").read_text())
  assert data["fingerprint"]
  environment = json.loads((folder / "whole" / "environment.json").read_text())
  assert environment["versions"]["jax"] and environment["devices"]


def test_starting_a_finished_run_changes_nothing(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  before = (folder / "whole" / "metrics.jsonl").read_text()

  cli.run(capsys, "train", "--config=config.py", "--workdir=whole")

  assert (folder / "whole" / "metrics.jsonl").read_text() == before


def test_a_workdir_of_another_config_is_refused_with_every_difference(
    folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)

  message = cli.refused(
      capsys, "train", "--config=config.py", "--workdir=whole",
      "--config.optim.lr=0.5", "--config.train.steps=41")

  assert "optim.lr: 0.001 there, 0.5 here" in message
  assert "train.steps: 40 there, 41 here" in message


def test_two_trainings_in_one_workdir_are_refused_until_the_first_ends(
    folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  steps = "--config.train.steps=1000000"
  # Its steps would fill a pipe that nobody reads.
  quiet = "import os, sys\nsys.stdout = open(os.devnull, 'w')\n" + processes.COMMAND
  first = _start(folder, "long", steps, program=quiet)
  _wait_for_step(folder / "long", 10)
  first.send_signal(signal.SIGSTOP)

  message = cli.refused(capsys, "train", "--config=config.py", "--workdir=long", steps)

  assert f"long: another command trains in it (process {first.pid} on" in message
  first.send_signal(signal.SIGTERM)
  first.send_signal(signal.SIGCONT)
  code, error = _end(first)
  assert code == 143
  step = int(re.search(r"Interrupted after step (\d+), with a checkpoint", error)[1])
  # A step of its own, and nothing in the way of those that go on from there.
  assert (folder / "long" / "checkpoints" / str(step)).is_dir()
  assert not list((folder / "long" / "checkpoints").glob(".lock"))
