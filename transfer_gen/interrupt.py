"""SIGTERM and Ctrl-C: both end the work in order, and a training after its step."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The signals so far. Python drops what is raised while an object is being deleted, and
# then only this says that the process was asked to end.
_ARRIVED: list[int] = []
_ALL: list[int] = []  # Those of which `Interrupted` has come out already, too.
# Where several processes work together: from a step to whether all stop after it.
_SHARED: list[Callable[[int], bool]] = []


class Interrupted(KeyboardInterrupt):
  """A signal has asked this process to end.

  It is no `Exception`, so that nothing takes it for a failure of the work.

  Attributes:
    code: What a shell reports for a process that this signal has ended.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.code = 128 + number


def listen() -> None:
  """Lets SIGTERM and Ctrl-C raise `Interrupted` in this process's main thread.

  Without it, SIGTERM ends a process at once, and files that are being written beside
  their places stay there.
  """
  for number in _SIGNALS:
    signal.signal(number, _hear)
  show = sys.unraisablehook

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    # What is raised while an object is being deleted is raised again by `deferred`.
    if not isinstance(unraisable.exc_value, Interrupted):
      show(unraisable)

  sys.unraisablehook = hook


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[int], int]]:
  """Yields a function from a step to the signal after which to end there, or 0.

  The first signal only sets that number; a second one raises `Interrupted` at once.
  Outside the main thread nothing is deferred, because only that one hears signals.
  Inside `shared`, all processes end after the same step, and SIGTERM is that signal.

  Raises:
    Interrupted: Before the body, if a signal has arrived earlier; and when the body has
      ended, if one has arrived and the body did not raise.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: 0
    return
  _raise_arrived()

  def note(number: int, frame: FrameType | None) -> None:
    if _ARRIVED:
      _hear(number, frame)
    _ARRIVED.append(number)
    _ALL.append(number)

  passed_on: list[int] = []

  def pass_on(number: int, frame: FrameType | None) -> None:
    if passed_on:
      _hear(number, frame)
    passed_on.append(number)
    _ALL.append(number)
    os.kill(os.getpid(), signal.SIGTERM)

  hear = pass_on if _SHARED else note
  before = {number: signal.signal(number, hear)
            for number in (_SIGNALS[:1] if _SHARED else _SIGNALS)}
  try:
    yield _shared_signal if _SHARED else lambda step: _ARRIVED[0] if _ARRIVED else 0
  except Interrupted:
    _ARRIVED.clear()  # Whoever catches it may go on with other work.
    raise
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  _raise_arrived()


@contextlib.contextmanager
def shared(reached: Callable[[int], bool]) -> Iterator[None]:
  """Lets processes that work together end after the same step.

  SIGTERM is left to the runtime that connects them, which has a handler of its own and
  tells the others. Ctrl-C stands for it inside `deferred`.

  Args:
    reached: From a step to whether all processes end after it.
  """
  _SHARED.append(reached)
  try:
    yield
  finally:
    _SHARED.pop()


def count() -> int:
  """Returns how many signals have arrived since the process began."""
  return len(_ALL)


def _raise_arrived() -> None:
  if _ARRIVED:
    number = _ARRIVED[0]
    _ARRIVED.clear()
    _raise(number)


def _shared_signal(step: int) -> int:
  return signal.SIGTERM if _SHARED[0](step) else 0


def _hear(number: int, frame: FrameType | None) -> None:
  del frame
  _ARRIVED.append(number)
  _ALL.append(number)
  _raise(number)


def _raise(number: int) -> NoReturn:
  raise Interrupted(
      f"Interrupted by {signal.Signals(number).name}. If you run the same command"
      " again, `train` and `study` continue from the last checkpoint, `generate"
      " --output` after the last answer, and other commands from the start.", number)
