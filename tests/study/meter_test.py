"""Tests for what a study says of how far it is."""

import re

from etils import epath
import pytest

from transfer_gen import config
from transfer_gen import progress
from transfer_gen.study import budgets
from transfer_gen.study import grid
from transfer_gen.study import jobs
from transfer_gen.study import meter


def _job(name, seed, steps):
  return jobs.Job(
      name=name, seed=seed, lr=0.1, workdir=epath.Path(f"w/{name}/{seed}"),
      run=config.Run(train=config.Train(steps=steps)))


@pytest.fixture(name="clock")
def _clock(monkeypatch):
  """A clock that tests set, in seconds."""
  now = [0.0]
  monkeypatch.setattr("time.monotonic", lambda: now[0])
  return now


def _take(clock, told, steps, seconds):
  """Takes steps in so many seconds each."""
  with told.listening(), progress.track("training", steps, "step") as work:
    for _ in range(steps):
      clock[0] += seconds
      work.advance()


def test_the_time_left_follows_from_the_steps_of_each_run_so_far(clock, capsys):
  found = meter.Meter({"open": 50})
  trainings = [_job("slow", 0, 10), _job("fast", 0, 100), _job("slow", 1, 10),
               _job("open", 0, 0)]
  for job in trainings:
    found.know(job, ended=False)
  assert found.line() == "study: 0 of 170 steps"
  for job, seconds in zip(trainings, (4.0, 1.0)):
    told = meter.Told()
    found.begin(job, told)
    clock[0] += 5.0  # What a training takes beside its steps.
    _take(clock, told, job.run.train.steps, seconds)
    found.end(job)

  # Ten steps of 4 s; fifty of a run that took none, at the mean of 140 s for 110
  # steps; and twice what is beside the steps.
  left = 10 * 4 + 50 * 140 / 110 + 2 * 5
  assert found.line() == (
      f"study: 110 of 170 steps, about {progress.duration(left)} left")
  lines = capsys.readouterr()
  assert lines.out.splitlines() == [
      "[1/4] slow, seed 0, lr 0.1", "[2/4] fast, seed 0, lr 0.1"]
  assert [line for line in lines.err.splitlines() if line.startswith("study")] == [
      "study: 0 of 170 steps",
      f"study: 10 of 170 steps, about {progress.duration(160 * 4 + 3 * 5)} left"]


def test_trainings_at_once_share_the_time_and_those_that_compile_are_counted(clock):
  found, told = meter.Meter({}, at_once=2), [meter.Told() for _ in range(3)]
  for seed, one in enumerate(told):
    found.know(_job("a", seed, 100), ended=False)
    found.begin(_job("a", seed, 100), one)
  _take(clock, told[0], 40, 1.0)
  told[1].cells[-1] = 1.0

  assert found.line() == (
      "study: 40 of 300 steps, about 2 min left; 1 training compiles")  # 260 s / 2.


def test_the_number_never_exceeds_a_total_that_grows(capsys):
  found = meter.Meter({})
  for seed in range(3):
    found.know(_job("a", seed, 5), ended=seed == 0)
  for seed in (1, 2):
    found.begin(_job("a", seed, 5), meter.Told())
    found.end(_job("a", seed, 5))
  found.know(_job("a_x2", 0, 10), ended=False)
  found.begin(_job("a_x2", 0, 10), meter.Told())

  printed = capsys.readouterr()
  assert re.findall(r"\[\d/\d\]", printed.out) == ["[2/3]", "[3/3]", "[4/4]"]
  assert printed.err.splitlines()[-1].startswith("study: 15 of 25 steps")


def test_steps_of_an_earlier_call_are_done_and_take_no_time(clock):
  found, told = meter.Meter({}), meter.Told()
  found.know(_job("a", 0, 100), ended=False)
  found.begin(_job("a", 0, 100), told)
  with told.listening(), progress.track("training", 100, "step", done=80) as work:
    clock[0] += 20.0
    work.advance(10)

  assert found.line() == "study: 90 of 100 steps, about 20 s left"


def test_what_is_counted_in_other_units_is_no_step(clock):
  told = meter.Told()
  with told.listening(), progress.track("scoring", 100, "row") as work:
    work.advance(10)

  assert not any(told.cells)


def test_a_longer_control_and_a_wider_grid_say_why_they_train():
  first = budgets.Longer(of="scratch_100").next
  assert first.why == (
      "scratch_100 still improved: trained again with 2 times its steps"
      " (scratch_100_x2)")
  assert first.next.why == (
      "scratch_100_x2 still improved: scratch_100 is trained again with 4 times its"
      " steps (scratch_100_x4)")
  rates = grid.Grid(config.Study(
      question="?", runs={"a": config.Run(), "b": config.Run()}, pairs=(("a", "b"),),
      lrs=(0.1, 0.2, 0.6)))
  assert rates.added({"a": (0.1, 0.2), "b": (0.1, 0.2)}) == [
      "a, b: lr 0.6 tried as well, as the best rate lies at the edge of those tried"]
