"""Progress of long work: a bar on a terminal, and lines now and then in a log."""

from collections.abc import Iterator
import contextlib
import sys
import time

import tqdm

_EVERY = 30.0  # Seconds between two lines in a log.


class Progress:
  """Counts finished units of work, and shows how much time is left.

  Everything goes to standard error, because the last line that a command writes to
  standard output is its result.
  """

  def __init__(
      self, what: str, total: int, unit: str, done: int = 0, every: float = _EVERY):
    """Begins to count.

    Args:
      what: What is done, e.g. "decoding".
      total: Number of units of the whole work.
      unit: What is counted, in the singular, e.g. "input".
      done: Number of units that were finished before.
      every: Seconds between two lines, where standard error is no terminal.
    """
    self._what, self._unit, self._every = what, unit, every
    self._began, self._before = time.monotonic(), done
    self._told = self._began
    self._bar = tqdm.tqdm(
        total=total, initial=done, unit=unit, desc=what, leave=False,
        dynamic_ncols=True, disable=None if sys.stderr.isatty() else True)
    self._done, self._total = done, total  # A disabled bar does not count.

  def advance(self, count: int = 1) -> None:
    """Counts further finished units."""
    self._done += count
    self._bar.update(count)
    now = time.monotonic()
    if self._bar.disable and now - self._told >= self._every:
      self._told = now
      pace = (now - self._began) / max(self._done - self._before, 1)
      left = duration(pace * (self._total - self._done))
      print(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}s, {left}"
            " left", file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Shows a line: above the bar, or in the log."""
    if self._bar.disable:
      print(text, file=sys.stderr, flush=True)
    else:
      self._bar.write(text, file=sys.stderr)

  def note(self, text: str) -> None:
    """Shows a text behind the bar; a log does not get it."""
    self._bar.set_postfix_str(text)

  def close(self) -> None:
    """Removes the bar."""
    self._bar.close()


@contextlib.contextmanager
def track(
    what: str, total: int, unit: str, done: int = 0, every: float = _EVERY
) -> Iterator[Progress]:
  """Shows the progress of the work inside a `with`; arguments as of `Progress`.

  Example:
    >>> from transfer_gen import progress
    >>> with progress.track("decoding", total=3, unit="input") as work:
    ...   for _ in range(3):
    ...     work.advance()
  """
  work = Progress(what, total, unit, done, every)
  try:
    yield work
  finally:
    work.close()


def duration(seconds: float) -> str:
  """Returns a time for people, with the precision of an estimate.

  Args:
    seconds: The time, at least 0.

  Example:
    >>> from transfer_gen import progress
    >>> progress.duration(41), progress.duration(95), progress.duration(7500)
    ('41 s', '2 min', '2 h 5 min')
  """
  if seconds < 90:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
