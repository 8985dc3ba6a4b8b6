"""Progress of long work: a bar on a terminal, and lines now and then in a log."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time
from typing import Any

import jax
import tqdm

from transfer_gen import processes

_EVERY = 30.0  # Seconds between two lines in a log.
# What JAX reports of a program before it compiles it, and after.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"
# Programs that are made ready in less than this many seconds compile at once, and are
# not worth a line.
_LARGE = 0.2
_LONG = 2.0  # Seconds of a compilation from which on its time is printed.
_HEARERS: list[Callable[["Progress"], object]] = []


class Progress:
  """Counts finished units of work, and shows how much time is left.

  It also reports when a program of JAX compiles, since nothing else moves then.
  Everything goes to standard error, because the last line that a command writes to
  standard output is its result.

  Attributes:
    unit: What is counted, in the singular.
    before: Number of units that were finished before.
    done: Number of units that are finished.
    compile_seconds: Seconds that JAX has compiled for since the work began.
    compiles: Whether it compiles now.
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
    self._what, self.unit, self._every = what, unit, every
    self._began, self.before = time.monotonic(), done
    self._told = self._began
    # Processes that train together do the same work, and one of them shows it.
    self._shows = processes.is_first()
    self.compile_seconds, self.compiles = 0.0, False
    self._bar = tqdm.tqdm(
        total=total, initial=done, unit=unit, desc=what, leave=False,
        dynamic_ncols=True,
        disable=None if self._shows and sys.stderr.isatty() else True)
    self.done, self._total = done, total  # A disabled bar does not count.
    jax.monitoring.register_event_duration_secs_listener(self._heard)

  @property
  def on_terminal(self) -> bool:
    """Whether there is a bar, and not a log."""
    return not self._bar.disable

  def advance(self, count: int = 1) -> None:
    """Counts further finished units."""
    self.done += count
    self._bar.update(count)
    now = time.monotonic()
    if not self.on_terminal and now - self._told >= self._every:
      self._told = now
      left = self._worked(now) / max(self.done - self.before, 1) * (
          self._total - self.done)
      self.say(f"{self._what}: {self.done:,} of {self._total:,} {self.unit}s,"
               f" {duration(left)} left")
    self._tell()

  @property
  def worked(self) -> float:
    """Seconds since the work began, without those of compiling."""
    return self._worked(time.monotonic())

  def say(self, text: str) -> None:
    """Shows a line: above the bar, or in the log."""
    if self.on_terminal:
      self._bar.write(text, file=sys.stderr)
    elif self._shows:
      print(text, file=sys.stderr, flush=True)

  def note(self, text: str) -> None:
    """Shows a text behind the bar; a log does not get it."""
    self._bar.set_postfix_str(text)

  def close(self) -> None:
    """Removes the bar."""
    jax.monitoring.unregister_event_duration_listener(self._heard)
    self._bar.close()

  def _worked(self, now: float) -> float:
    # Compiling is done once, and says nothing of the units to come.
    return max(now - self._began - self.compile_seconds, 0.0)

  def _tell(self) -> None:
    for hear in _HEARERS:
      hear(self)

  def _heard(self, event: str, duration_secs: float, **kwargs: Any) -> None:
    """Hears from JAX that a program is about to be compiled, or was compiled."""
    del kwargs
    if event in (_LOWERED, _COMPILED):
      self.compile_seconds += duration_secs
    if event == _LOWERED and duration_secs >= _LARGE:
      self.compiles = True
      self._tell()
      self.note("compiling")
      if not self.on_terminal:
        self.say(f"{self._what}: compiling")
    elif event == _COMPILED:
      self.compiles = False
      self._tell()
      self.note("")
      if duration_secs >= _LONG:
        self.say(f"{self._what}: compiled in {duration(duration_secs)}")


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


@contextlib.contextmanager
def heard(hear: Callable[[Progress], object]) -> Iterator[None]:
  """Lets a function hear of each work that advances or compiles inside a `with`.

  Args:
    hear: Gets the work; it is called often, and must not take long.
  """
  _HEARERS.append(hear)
  try:
    yield
  finally:
    _HEARERS.remove(hear)


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
