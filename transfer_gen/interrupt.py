"""SIGTERM and Ctrl-C: both end the work in order, and a training after its step."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    signal.signal(number, _raise)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
  """Yields a function that returns the signal that has arrived, or 0.

  The first signal only sets that number; a second one raises `Interrupted` at once.
  Outside the main thread nothing is deferred, because only that one hears signals.

  Raises:
    Interrupted: When the body has ended, if a signal has arrived and the body did not
      raise.
  """
  arrived = [0]

  def note(number: int, frame: FrameType | None) -> None:
    if arrived[0]:
      _raise(number, frame)
    arrived[0] = number

  if threading.current_thread() is not threading.main_thread():
    yield lambda: 0
    return
  before = {number: signal.signal(number, note) for number in _SIGNALS}
  try:
    yield lambda: arrived[0]
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if arrived[0]:
    _raise(arrived[0], None)


def _raise(number: int, frame: FrameType | None) -> None:
  del frame
  raise Interrupted(
      f"Interrupted by {signal.Signals(number).name}. If you run the same command"
      " again, `train` and `study` continue from the last checkpoint, `generate"
      " --output` after the last answer, and other commands from the start.", number)
