"""The processes that train for a study at once, as the process of the study sees them.

Each worker is a pool of one process of `concurrent.futures`. In a pool of several, the
end of one process, which the system may kill for lack of memory, ends all others.
"""

from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import process
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import sys

import jax

from transfer_gen import errors
from transfer_gen import processes
from transfer_gen.study import meter
from transfer_gen.study import one_training
from transfer_gen.study import worker

# A process that has imported what a training needs, and has used no device, forks
# faster than others import. Elsewhere than on Linux, system libraries cannot be forked.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
_KILLED = (
    "its process was ended from outside. The system does so if memory is lacking: give"
    " fewer --jobs. If you run the same command again, the training continues from its"
    " last checkpoint.")
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


class Workers:
  """Processes that train, as many at once as were asked for."""

  def __init__(self, count: int):
    """Begins without a process; each is started when it is needed first."""
    self._count = count
    self._context = multiprocessing.get_context(_METHOD)
    self._before = {*multiprocessing.active_children()}
    if _METHOD == "forkserver":
      self._context.set_forkserver_preload([worker.__name__])
    self._watched, self._stop = self._context.Pipe(duplex=False)
    self._idle: list[_Pool] = []
    self._running: dict[futures.Future, tuple[one_training.Job, _Pool]] = {}

  @property
  def is_free(self) -> bool:
    """Whether another training can begin."""
    return len(self._running) < self._count

  @property
  def running(self) -> list[one_training.Job]:
    """The trainings in progress, in the order in which they began."""
    return [job for job, _ in self._running.values()]

  def begin(self, job: one_training.Job) -> meter.Told:
    """Begins a training; returns what it reports of itself.

    Raises:
      Exception: If something in its config cannot be sent to another process.
    """
    packed = worker.pack(job)
    pool = self._idle.pop() if self._idle else self._new()
    pool.told.clear()
    with _undisturbed():
      try:
        future = pool.executor.submit(worker.train, packed)
      except process.BrokenProcessPool:  # It was killed while it was idle.
        pool = self._new()
        future = pool.executor.submit(worker.train, packed)
    self._running[future] = job, pool
    return pool.told

  def wait(self, seconds: float) -> list[tuple[one_training.Job, one_training.Ending]]:
    """Returns what has ended, and waits for that, but not longer than some seconds."""
    done, _ = futures.wait(
        self._running, seconds, return_when=futures.FIRST_COMPLETED)
    found = []
    for future in [one for one in self._running if one in done]:
      job, pool = self._running.pop(future)
      try:
        ending = future.result()
      except process.BrokenProcessPool:
        ending = one_training.Ending(lines=[_KILLED], interrupted=True)
      if ending.interrupted:  # Its process has ended, or was asked to.
        pool.executor.shutdown(wait=False)
      else:
        self._idle.append(pool)
      found.append((job, ending))
    return found

  def close(self) -> None:
    """Ends the processes; those that train save their step first.

    A signal meanwhile, such as a second Ctrl-C, ends them at once.
    """
    self._stop.close()  # Which each of them notices.
    try:
      if self._running:
        print("study: trainings in progress save their last step:"
              f" {len(self._running)}. A second signal ends them at once.",
              file=sys.stderr, flush=True)
        futures.wait(self._running)
      for pool in [*self._idle, *(pool for _, pool in self._running.values())]:
        pool.executor.shutdown()
    except BaseException:
      for child in {*multiprocessing.active_children()} - self._before:
        child.kill()
      raise
    finally:
      self._watched.close()

  def _new(self) -> "_Pool":
    cells = self._context.RawArray("d", meter.CELLS)
    return _Pool(meter.Told(cells), futures.ProcessPoolExecutor(
        1, self._context, initializer=worker.begin,
        initargs=(self._watched, cells, logging.getLogger("absl").level)))


@dataclasses.dataclass(frozen=True)
class _Pool:
  """A pool of one process, and what it reports of its training."""
  told: meter.Told
  executor: futures.ProcessPoolExecutor


def prepare(count: int) -> None:
  """Lets processes share the devices; to be called before the first use of a device.

  Args:
    count: Number of trainings at once.

  Raises:
    errors.UserError: If there are fewer than one, or several of them cannot share the
      devices.
  """
  processes.refuse("`study`")
  if count < 1:
    raise errors.UserError(
        f"--jobs is {count}, must be at least 1: the number of trainings at once.")
  if count > 1:
    os.environ.setdefault(_PREALLOCATE, "false")
    if note := sharing(jax.default_backend(), count):
      print(note, flush=True)


def sharing(platform: str, count: int) -> str:
  """Returns what to know of processes on one accelerator; "" on a CPU.

  Args:
    platform: What JAX calls the devices.
    count: Number of trainings at once.

  Raises:
    errors.UserError: If a device can belong to one process only.
  """
  if platform == "cpu":
    return ""
  if platform == "tpu":
    raise errors.UserError(
        f"--jobs is {count}, and a TPU belongs to one process at a time. Give"
        " --jobs=1.")
  # The process of the study scores, and so has a share as well.
  begin = (f"study: {count} trainings at once and the study itself share the memory of"
           f" the {platform}.")
  if os.environ.get(_PREALLOCATE, "").lower() in ("false", "0"):
    return (f"{begin} Each takes what it needs ({_PREALLOCATE}=false); if that does not"
            " fit, give fewer --jobs.")
  return (f"{begin} Each takes its share at once: set XLA_PYTHON_CLIENT_MEM_FRACTION to"
          f" {0.95 / (count + 1):.2f} at most, or {_PREALLOCATE}=false.")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
  """Holds signals back; processes that start in the body do not hear them either.

  Workers listen to SIGTERM again. What forks them must not end by a signal to all
  processes of a group: the pools would then take their workers for ended.
  """
  before = signal.pthread_sigmask(
      signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
