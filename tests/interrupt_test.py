"""Tests for signals: deferred once, raised the second time, and never lost."""

import os
import signal

import pytest

from transfer_gen import interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_until_the_body_has_ended(number):
  before = signal.getsignal(number)
  done = []

  with pytest.raises(interrupt.Interrupted) as raised, interrupt.deferred() as arrived:
    assert arrived(1) == 0
    os.kill(os.getpid(), number)
    done.append(arrived(1))

  assert done == [number] and raised.value.code == 128 + number
  assert signal.getsignal(number) is before
  with interrupt.deferred() as arrived:  # It is reported once only.
    assert arrived(1) == 0


def test_the_second_signal_ends_the_body_at_once():
  with pytest.raises(interrupt.Interrupted), interrupt.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the second one must have raised")

  with interrupt.deferred() as arrived:
    assert arrived(1) == 0


def test_processes_that_work_together_decide_after_which_step_they_end():
  heard = []
  before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
  try:
    with pytest.raises(interrupt.Interrupted), (
        interrupt.shared(lambda step: step == 3)), interrupt.deferred() as arrived:
      os.kill(os.getpid(), signal.SIGTERM)  # It is the runtime's, whose handler stays.
      os.kill(os.getpid(), signal.SIGINT)  # It stands for the other one.
      assert heard == [signal.SIGTERM] * 2
      assert [arrived(step) for step in (1, 2, 3)] == [0, 0, signal.SIGTERM]
      os.kill(os.getpid(), signal.SIGINT)
      raise AssertionError("the second one must have raised")
  finally:
    signal.signal(signal.SIGTERM, before)


def test_a_signal_that_python_dropped_ends_the_next_training(monkeypatch):
  class Dropping:

    def __del__(self):
      os.kill(os.getpid(), signal.SIGINT)
      list(range(1000))  # The handler runs between two instructions.

  before = {number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM)}
  monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)
  interrupt.listen()
  try:
    thing = Dropping()
    del thing  # What is raised here cannot leave `__del__`.
    with pytest.raises(interrupt.Interrupted), interrupt.deferred():
      raise AssertionError("the body must not run")
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
