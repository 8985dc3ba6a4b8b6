"""Folders of what was made of large data, which runs share, and processes that make it.

Each folder is named by a hash of all that it depends on, so that it never has to be
made again, and lies in `$TRANSFER_GEN_CACHE`, by default in `~/.cache/transfer_gen`.
Folders may be deleted while no run reads them.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
from concurrent.futures import process
import contextlib
import json
import multiprocessing
import os
import signal
import threading
from typing import Any

from etils import epath
import xxhash

from transfer_gen import errors
from transfer_gen import lock
from transfer_gen import progress
from transfer_gen.formats import whole

VARIABLE = "TRANSFER_GEN_CACHE"
# Tasks that are worth a process: it takes seconds to start.
_TASKS = 8
Progress = progress.Progress


def folder(kind: str, facts: Any) -> epath.Path:
  """Returns the folder of what depends on some facts, which need not exist.

  Args:
    kind: What is in it, in one word.
    facts: All that it depends on, as JSON can hold it.

  Raises:
    errors.UserError: If the cache is no local folder.
  """
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  root = os.environ.get(VARIABLE) or f"{base}/transfer_gen"
  if "://" in root:
    raise errors.UserError(
        f"{VARIABLE}={root}: rows are read from it in random order, so it must be a"
        " local folder. Give one on a disk with room.")
  key = xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())
  return epath.Path(root).expanduser() / kind / key


@contextlib.contextmanager
def alone(made: epath.Path) -> Iterator[None]:
  """Lets one process after another fill a folder, which is made.

  Of processes that want the same, the first one makes it, and the others find it made.
  """
  with whole.writing(made):
    made.mkdir(parents=True, exist_ok=True)
  with lock.hold(made / "lock", "", wait=True):
    yield


def write_json(path: epath.Path, data: Any) -> int:
  """Writes JSON in one line; returns the number of bytes."""
  found = json.dumps(data, ensure_ascii=False).encode()
  whole.write_bytes(path, found)
  return len(found)


def damaged(made: epath.PathLike, path: epath.PathLike, cause: str) -> errors.UserError:
  """Returns an error that says that a file in the cache is not as it was written."""
  return errors.UserError(
      f"{path}: {cause}: it is damaged. Delete the folder {made}, and the same command"
      " makes it again.")


def run(
    function: Callable[..., int], tasks: Iterable[tuple[Any, ...]], count: int,
    work: Progress) -> None:
  """Calls a function for each of many tasks, in several processes if there are many.

  Args:
    function: Of a module; returns by how much progress advances.
    tasks: Its arguments; read as they are needed.
    count: About how many tasks there are.
    work: Is advanced.

  Raises:
    errors.UserError: If a call raises one, or a process is killed.
  """
  workers = min(len(os.sched_getaffinity(0)), count // _TASKS)
  if workers < 2:
    for task in tasks:
      work.advance(function(*task))
    return
  waiting: collections.deque[concurrent.futures.Future[int]] = collections.deque()
  # A forked process would inherit the threads of this one.
  pool = process.ProcessPoolExecutor(
      workers, multiprocessing.get_context("spawn"), initializer=_follow)
  try:
    for task in tasks:
      waiting.append(pool.submit(function, *task))
      if len(waiting) > workers:  # One more, so that none waits for its next task.
        work.advance(waiting.popleft().result())
    while waiting:
      work.advance(waiting.popleft().result())
  except process.BrokenProcessPool as error:
    raise errors.UserError(
        "A process that prepares the data was killed, probably because memory ran out."
        " Free some, and give the same command again: what is finished is kept."
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _follow() -> None:
  """Lets a worker end with the process that started it, however that ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # It goes to both, and that one asks.
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)  # Nobody is left who waits for this thread's process.

  threading.Thread(target=watch, daemon=True).start()
