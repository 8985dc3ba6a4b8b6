"""A process that trains for a study, one training after another.

It ends with the process of the study, by whatever that ends: both ends of a pipe are
closed by the system when their owners end, and the study alone has the other end of the
one that a worker watches. A training in progress then saves its step first, as it does
after SIGTERM.
"""

from collections.abc import Callable, Iterator
import contextlib
import logging
import multiprocessing
from multiprocessing import connection
import os
import pickle
import signal
import threading
import time
from typing import Any

import cloudpickle
from etils import epath

from transfer_gen import errors
from transfer_gen import interrupt
from transfer_gen.formats import whole
from transfer_gen.study import meter
from transfer_gen.study import one_training
from transfer_gen.transfer import plan_json

LOG = "training.log"  # In the workdir of a training: what it said.
_POLL = 0.05  # Seconds.


class _Worker:
  """What this process knows of itself.

  Attributes:
    reader: Has read the texts of the trainings so far.
    hear: What SIGTERM does during a training.
    told: What the study knows of the training.
  """

  def __init__(self):
    self.reader = one_training.Reader()
    self.hear: Any = signal.SIG_DFL
    self.told = meter.Told()
    self._lock = threading.Lock()
    self._busy = self._stopped = False
    self._signals = 0  # That came before the training in progress.

  @contextlib.contextmanager
  def busy(self):
    """Lets SIGTERM end the body in order.

    Raises:
      interrupt.Interrupted: Before the body, if the study has ended.
    """
    with self._lock:
      if self._stopped:
        raise interrupt.Interrupted("The study was interrupted.", signal.SIGTERM)
      self._signals = interrupt.count()
      signal.signal(signal.SIGTERM, self.hear)
      self._busy = True
    try:
      yield
    finally:
      # Between trainings there is nothing to save.
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
      self._busy = False

  def watch(self, stop: connection.Connection) -> None:
    """Ends a training, and this process, when the other end of a pipe is closed."""
    connection.wait([stop])
    with self._lock:
      self._stopped = True
      # A second signal would not wait for the step to be saved. The first one may have
      # come to this process directly, as from a system that ends a whole group.
      if self._busy and interrupt.count() == self._signals:
        os.kill(os.getpid(), signal.SIGTERM)
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()  # A study that goes on ends this process in order.
    while self._busy:
      time.sleep(_POLL)
    os._exit(1)


_WORKER = _Worker()


def begin(stop: connection.Connection, cells: Any, level: int) -> None:
  """Makes this process a worker.

  Args:
    stop: An end of a pipe whose other end belongs to the study alone.
    cells: Numbers that the study reads, see `meter.Told`.
    level: Level of what absl logs in the process of the study.
  """
  _WORKER.told = meter.Told(cells)
  logging.getLogger("absl").setLevel(level)
  interrupt.listen()
  _WORKER.hear = signal.getsignal(signal.SIGTERM)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  # A terminal sends Ctrl-C to all processes, and the study passes it on.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
  threading.Thread(target=_WORKER.watch, args=(stop,), daemon=True).start()


def pack(job: one_training.Job) -> bytes:
  """Returns a training for `train`.

  Args:
    job: The training. Functions and classes of its config file travel along: they
      belong to no module that another process could import.
  """
  return cloudpickle.dumps((job, plan_json.KINDS))


def train(packed: bytes) -> one_training.Ending:
  """Trains; what it says goes to the end of `LOG` in the workdir.

  Args:
    packed: What `pack` returned in the process of the study.
  """
  return _ending(lambda: _train(packed))


def _train(packed: bytes) -> one_training.Ending:
  job, kinds = pickle.loads(packed)
  plan_json.KINDS.update(kinds)
  with _WORKER.busy(), _logged(job), _WORKER.told.listening():
    ending = _ending(lambda: one_training.train(job, _WORKER.reader))
    print(*ending.lines, sep="\n", flush=True)
    return ending


def _ending(train_fn: Callable[[], one_training.Ending]) -> one_training.Ending:
  """Returns how a training has ended, also where an exception has ended it."""
  try:
    return train_fn()
  except interrupt.Interrupted as signalled:
    return one_training.Ending(lines=[str(signalled)], interrupted=True)
  except errors.Unwritable as error:
    return one_training.Ending(lines=[str(error)], unwritable=(str(error), error.cause))
  except Exception as error:  # pylint: disable=broad-except
    return one_training.failure(error)


@contextlib.contextmanager
def _logged(job: one_training.Job) -> Iterator[None]:
  """Writes what the body prints into the log of a training."""
  path = job.workdir / LOG
  with whole.writing(path):
    job.workdir.mkdir(parents=True, exist_ok=True)
    whole.make_way(path)  # A folder from elsewhere may hold a link of that name.
    file = path.open("a")
  log: Any = _Log(file, path)
  with contextlib.closing(log), contextlib.redirect_stdout(log), (
      contextlib.redirect_stderr(log)):
    yield


class _Log:
  """A text file whose lines can be read at once; a full disk is no fault of the run."""

  def __init__(self, file: Any, path: epath.Path):
    self._file, self._path = file, path

  def __getattr__(self, name: str) -> Any:
    return getattr(self._file, name)

  def write(self, text: str) -> int:
    """Writes a text."""
    with whole.writing(self._path):
      return self._file.write(text)

  def flush(self) -> None:
    """Hands what was written to the system."""
    with whole.writing(self._path):
      self._file.flush()
