"""Whether a training advances: a file that says so, and a warning where it does not."""

import collections
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import statistics
import sys
import threading
import time
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen import progress
from transfer_gen.formats import whole

FOLDER = "heartbeat"  # In a workdir; a file for each process.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TRAINS, _ENDED = "trains", "has ended"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """How often a heartbeat looks and writes, and when a run hangs; all in seconds.

  Attributes:
    look: Between two looks at the devices.
    write: Between two writes of the file, at least.
    times: A run hangs if it has not advanced for so many of its usual steps, and not
      for `least` either.
    least: See `times`.
    otherwise: In place of both before the second step, while a program compiles, and
      during a validation or a checkpoint, of which nobody knows how long they take.
  """
  look: float = 1.0
  write: float = 10.0
  times: float = 20.0
  least: float = 60.0
  otherwise: float = 1800.0


class Heartbeat:
  """Watches the steps of a training in a thread of its own.

  A step counts when a device has computed it, and not when it was asked for.

  Attributes:
    compile_seconds: How long JAX has compiled since the training began.
  """

  def __init__(self, workdir: epath.PathLike, done: int, limits: Limits = Limits()):
    """Begins to watch.

    Args:
      workdir: Workdir of the run.
      done: Number of steps that were taken before.
      limits: How often it looks and writes, and when it warns.
    """
    self._path = epath.Path(workdir) / FOLDER / f"{jax.process_index()}.json"
    self._limits, self._main = limits, threading.get_ident()
    self._running: collections.deque[tuple[int, jax.Array]] = collections.deque()
    self._paces: collections.deque[float] = collections.deque(maxlen=30)
    self._step, self._doing, self._compiles = done, _TRAINS, False
    # Monotonic; `_since` is also the end of whatever was no training.
    self._since = self._written = time.monotonic()
    self._advanced, self._warned, self.compile_seconds = time.time(), False, 0.0
    self._closed, self._lock = threading.Event(), threading.Lock()
    self._stack = contextlib.ExitStack()
    self._stack.enter_context(progress.heard(self._hear))
    self._write()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def after(self, step: int, output: jax.Array) -> None:
    """Notes a step that was asked for, and one of the arrays that it computes."""
    self._running.append((step, output))

  @contextlib.contextmanager
  def doing(self, what: str) -> Iterator[None]:
    """Says that the body is no training, but `what`, such as "validates"."""
    self._set(what)
    try:
      yield
    finally:
      self._set(_TRAINS)

  def close(self) -> None:
    """Ends the thread, and notes that the training has ended."""
    self._closed.set()
    self._thread.join()
    self._stack.close()
    self._look()
    self._doing = _ENDED
    self._write()

  def _set(self, what: str) -> None:
    with self._lock:
      self._doing, self._since, self._warned = what, time.monotonic(), False

  def _hear(self, work: progress.Progress) -> None:
    if work.unit == "step":
      self.compile_seconds = work.compile_seconds
    if work.compiles != self._compiles:
      self._compiles, self._since = work.compiles, time.monotonic()

  def _watch(self) -> None:
    while not self._closed.wait(self._limits.look):
      with self._lock:
        self._look()

  def _look(self) -> None:
    now, before = time.monotonic(), self._step
    while self._running and _is_ready(self._running[0][1]):
      self._step = self._running.popleft()[0]
    if self._step > before:
      if self._doing == _TRAINS and not self._compiles:
        self._paces.append((now - self._since) / (self._step - before))
      self._since, self._advanced, self._warned = now, time.time(), False
      if now - self._written >= self._limits.write:
        self._write()
    elif now - self._since > self._patience() and not self._warned:
      self._warned = True
      self._warn(now - self._since)

  def _patience(self) -> float:
    # The first pace has the time in it that compiling takes beside XLA.
    if self._doing != _TRAINS or self._compiles or len(self._paces) < 2:
      return self._limits.otherwise
    return max(self._limits.least, self._limits.times * statistics.median(self._paces))

  def _warn(self, seconds: float) -> None:
    who = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    usual = (f" A step usually takes {statistics.median(self._paces):.2g} s."
             if self._paces else "")
    doing = "compiles" if self._compiles else self._doing
    print(f"transfer-gen: {who}the run {doing} and has not advanced for"
          f" {progress.duration(seconds)}; step {self._step} was the last."
          f"{usual} It waits in {_where(self._main)}.", file=sys.stderr, flush=True)

  def _write(self) -> None:
    self._written = time.monotonic()
    # A full disk is for those to report who write what must not be lost.
    with contextlib.suppress(OSError, errors.UserError):
      self._path.parent.mkdir(parents=True, exist_ok=True)
      whole.write_json(self._path, {
          "process": jax.process_index(), "step": self._step, "doing": self._doing,
          "time": round(self._advanced, 1),
          "seconds_per_step": statistics.median(self._paces) if self._paces else None})


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the last heartbeat of each process that trains in a workdir, in order.

  Raises:
    errors.UserError: If one is damaged.
  """
  folder = epath.Path(workdir) / FOLDER
  found = [whole.read_json(path, _parsed, "Delete it.")
           for path in (folder.iterdir() if folder.is_dir() else ())
           if path.suffix == ".json"]
  return sorted(found, key=lambda one: one["process"])


def sentence(workdir: epath.PathLike, now: float | None = None) -> str:
  """Returns when a run has last advanced, for people; empty if it does not say.

  Args:
    workdir: Workdir of the run.
    now: Seconds since the epoch. If None, those of the clock.
  """
  found = read(workdir)
  if not found:
    return ""
  # Of several processes the one that is behind, for which the others wait.
  last = min(found, key=lambda one: (one["step"], one["time"]))
  who = f", process {last['process']} of {len(found)}" if found[1:] else ""
  ago = max((time.time() if now is None else now) - last["time"], 0.0)
  doing = "It has ended since." if last["doing"] == _ENDED else (
      f"It then {last['doing']}, or was killed.")
  return (f"The run last advanced {progress.duration(ago)} ago, to step"
          f" {last['step']}{who}. {doing}")


def _parsed(data: Mapping[str, Any]) -> dict[str, Any]:
  found = {"process": int(data["process"]), "step": int(data["step"]),
           "time": float(data["time"]), "doing": str(data["doing"])[:40]}
  return found


def _is_ready(array: Any) -> bool:
  try:
    return array.is_ready()
  except RuntimeError:  # What computes it has failed, or it is gone: that is an end.
    return True


def _where(thread: int) -> str:
  """Returns where a thread is: in this package, and in what it has called."""
  frame = sys._current_frames().get(thread)
  places = []
  while frame is not None:
    code = frame.f_code
    places.append((code.co_filename, f"{os.path.basename(code.co_filename)}:"
                   f"{frame.f_lineno} ({code.co_name})"))
    frame = frame.f_back
  ours = next((place for file, place in places if file.startswith(_PACKAGE)), "")
  innermost = places[0][1] if places else "a thread that has ended"
  return f"{ours}, called {innermost}" if ours not in ("", innermost) else innermost
