"""A lock on a local folder or file, which the end of its owner opens."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import socket
from typing import TextIO

from etils import epath

from transfer_gen import errors
from transfer_gen import untrusted


@contextlib.contextmanager
def hold(path: epath.Path, busy: str, wait: bool = False) -> Iterator[None]:
  """Holds a lock file while the body runs, and removes it afterwards.

  The operating system opens the lock when its owner ends, by whatever signal, so that a
  file that was left behind locks nothing. Remote paths are not locked.

  Args:
    path: The lock file; its folder exists.
    busy: What another process reads if it finds the lock held: `W: another command
      trains in it`.
    wait: Whether to wait for another process that holds it, and not to raise.

  Raises:
    errors.UserError: If another process holds it and `wait` is false.
  """
  if "://" in str(path):
    yield
    return
  with _locked(path, busy, wait) as file:
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    try:
      yield
    finally:
      # While it is still locked: a process that opens it later sees that it is gone.
      os.unlink(path)


@contextlib.contextmanager
def _locked(path: epath.Path, busy: str, wait: bool) -> Iterator[TextIO]:
  while True:
    untrusted.make_way(path)
    with open(path, "a+", encoding="utf-8") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        file.seek(0)
        owner = file.read() or "another process"
        raise errors.UserError(
            f"{busy} ({owner}). Wait until it has ended.") from None
      # The owner before may have removed the file between the two calls.
      if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()),
                                                   os.stat(path)):
        yield file
        return
