"""SIGTERM and Ctrl-C: both end the work in order, and a training after its step."""

from collections.abc import Callable, Iterator
import contextlib
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
def deferred() -> Iterator[Callable[[], int]]:
  """Yields a function that returns the signal that has arrived, or 0.

  The first signal only sets that number; a second one raises `Interrupted` at once.
  Outside the main thread nothing is deferred, because only that one hears signals.

  Raises:
    Interrupted: Before the body, if a signal has arrived earlier; and when the body has
      ended, if one has arrived and the body did not raise.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: 0
    return
  _raise_arrived()

  def note(number: int, frame: FrameType | None) -> None:
    if _ARRIVED:
      _hear(number, frame)
    _ARRIVED.append(number)
    _ALL.append(number)

  before = {number: signal.signal(number, note) for number in _SIGNALS}
  try:
    yield lambda: _ARRIVED[0] if _ARRIVED else 0
  except Interrupted:
    _ARRIVED.clear()  # Whoever catches it may go on with other work.
    raise
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  _raise_arrived()


def count() -> int:
  """Returns how many signals have arrived since the process began."""
  return len(_ALL)


def _raise_arrived() -> None:
  if _ARRIVED:
    number = _ARRIVED[0]
    _ARRIVED.clear()
    _raise(number)


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
