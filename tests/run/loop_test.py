"""Tests for the loop of training: checkpoints before validations, and pmap."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import checkpoint
from transfer_gen import interrupt
from transfer_gen.run import ledger
from transfer_gen.run import loop
from transfer_gen.run import validation


def run_on(folder, **train):
  small_runs.write_lines(folder / "a.txt")
  run = small_runs.configure(
      folder / "a.txt", small_runs.DECODER, steps=6, eval_every=2, checkpoint_every=2)
  for name, value in train.items():
    setattr(run.train, name, value)
  return run


def lines(workdir):
  return [{key: value for key, value in line.items()
           if key not in ("seconds", "tokens_per_second")}
          for line in small_runs.metrics(workdir)]


def test_any_rate_of_dropout_acts_in_training(tmp_path):
  small_runs.write_lines(tmp_path / "a.txt")
  losses = []
  for rate in (0.0, 0.9):
    model = dataclasses.replace(small_runs.RNN, input_dropout=rate)
    loop.train(small_runs.configure(tmp_path / "a.txt", model, steps=1),
               tmp_path / str(rate))
    losses.append(next(line["loss"] for line in lines(tmp_path / str(rate))
                       if "loss" in line))

  assert losses[0] != losses[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint_of_the_step_in_which_it_arrives(
    tmp_path, monkeypatch, number):
  run = run_on(tmp_path, eval_every=6, checkpoint_every=6)
  loop.train(run, tmp_path / "whole")
  add = ledger.Ledger.add
  steps = []

  def add_and_signal(*arguments):
    steps.append(len(steps) + 1)
    if len(steps) == 3:
      os.kill(os.getpid(), number)
    return add(*arguments)

  monkeypatch.setattr(ledger.Ledger, "add", add_and_signal)

  with pytest.raises(interrupt.Interrupted, match="after step 3, with a checkpoint"):
    loop.train(run, tmp_path / "run")

  assert checkpoint.find(tmp_path / "run").step == 3
  loop.train(run, tmp_path / "run")
  assert len(steps) == 6
  assert_same_bits(small_runs.params(tmp_path / "run", 6),
                   small_runs.params(tmp_path / "whole", 6))


@pytest.fixture
def failing(monkeypatch):
  """Returns a function that makes a validation fail, counted from 0 in each process."""
  make = validation.make

  def fail(number):
    calls = []

    def making(*args):
      validate = make(*args)

      def validating(params):
        calls.append(params)
        if len(calls) == number + 1:
          raise MemoryError("while it validates")
        return validate(params)
      return validating
    monkeypatch.setattr(validation, "make", making)
  return fail


@pytest.mark.parametrize("number, step", [
    (0, 2), pytest.param(1, 4, marks=pytest.mark.long),
    pytest.param(2, 6, marks=pytest.mark.long)])
def test_a_run_that_failed_in_a_validation_goes_on_with_it(
    tmp_path, failing, number, step):
  run = run_on(tmp_path)
  want = loop.train(run, tmp_path / "whole")
  failing(number)

  with pytest.raises(MemoryError):
    loop.train(run, tmp_path / "cut")
  stored = checkpoint.find(tmp_path / "cut", step)
  failing(99)
  got = loop.train(run, tmp_path / "cut")

  # The checkpoint was there before the validation, which had no line yet.
  assert stored.step == step and stored.facts["validated"] is False
  assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
  assert {k: v for k, v in got.items() if k != "seconds"} == {
      k: v for k, v in want.items() if k != "seconds"}
  for at in (6, -1):
    assert_same_bits(small_runs.params(tmp_path / "cut", at),
                     small_runs.params(tmp_path / "whole", at))
  facts = [checkpoint.find(tmp_path / name, 6).facts for name in ("cut", "whole")]
  assert facts[0] == facts[1] and facts[0]["validated"] and facts[0]["finished"]


def test_a_run_that_stops_early_at_no_checkpoint_saves_one(tmp_path):
  run = run_on(tmp_path, steps=50, patience=1, eval_every=3, checkpoint_every=50)
  run.optim.lr = 10.0

  got = loop.train(run, tmp_path / "w")

  assert got["step"] < 50 and got["step"] % 3 == 0
  facts = checkpoint.find(tmp_path / "w", got["step"]).facts
  assert facts["finished"] and facts["best"]["stale"] == 1


def test_a_line_of_a_validation_that_was_cut_is_written_once(tmp_path, failing):
  """As if the process died after its line and before the checkpoint knew of it."""
  run = run_on(tmp_path)
  failing(1)
  with pytest.raises(MemoryError):
    loop.train(run, tmp_path / "w")
  with (tmp_path / "w" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "split": "validation", "loss": 1.0}\n')
  failing(99)

  loop.train(run, tmp_path / "w")

  steps = [line["step"] for line in lines(tmp_path / "w")
           if line["split"] == "validation"]
  assert steps == [2, 4, 6]


def test_a_run_under_pmap_has_the_losses_of_one_under_jit(tmp_path):
  run = run_on(tmp_path, steps=2)
  under_jit = loop.train(run, tmp_path / "jit")
  run.parallel.mode = "pmap"

  loop.train(run, tmp_path / "pmap", stop=1)
  under_pmap = loop.train(run, tmp_path / "pmap")  # Goes on, from a checkpoint.

  name = "best_validation_loss"
  np.testing.assert_allclose(under_pmap[name], under_jit[name], rtol=1e-5)
  assert under_pmap["step"] == under_jit["step"] == 2


def test_what_is_kept_of_checkpoints_and_of_best_params_is_as_asked(tmp_path):
  small_runs.write_lines(tmp_path / "a.txt")
  run = small_runs.configure(
      tmp_path / "a.txt", small_runs.RNN, steps=12, eval_every=2, checkpoint_every=2,
      lr=0.01)
  run = run.with_values("train", keep=2, keep_every=4, keep_best=3)

  loop.train(run, tmp_path / "w")

  folder = tmp_path / "w" / "checkpoints"
  steps = lambda path: {int(one.name) for one in path.iterdir() if one.name.isdigit()}
  assert steps(folder) == {4, 8, 10, 12}
  assert steps(folder / "best") == {8, 10, 12}  # Each validation was the best so far.
  assert checkpoint.find(tmp_path / "w", 4).step == 4


def test_a_profile_holds_the_steps_that_were_asked_for_and_changes_nothing(
    tmp_path, capsys):
  run = run_on(tmp_path)
  loop.train(run, tmp_path / "plain")

  loop.train(run, tmp_path / "w", profile=3)

  assert "profile, of steps 3 to 5 of this call" in capsys.readouterr().out
  [recorded] = (tmp_path / "w" / "profile").glob("plugins/profile/*/*.xplane.pb")
  found = jax.profiler.ProfileData.from_file(str(recorded))
  calls = sum("PjitFunction(_keep)" in event.name for plane in found.planes
              for line in plane.lines for event in line.events)
  assert calls in (3, 6)  # Python's calls of the step, and those in them.
  assert not (tmp_path / "plain" / "profile").exists()
  assert_same_bits(*(small_runs.params(tmp_path / name, 6) for name in ("plain", "w")))
