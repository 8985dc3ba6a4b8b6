"""What the system refuses while a checkpoint is saved or read, which is no damage."""

from collections.abc import Iterator
import contextlib
import errno
import os
import re
from typing import Any

from transfer_gen import errors

# TensorStore reports what the system said inside the text of a ValueError.
_OF_SYSTEM = re.compile(r"os_error_code='(\d+)'")
_NO_MEMORY = "RESOURCE_EXHAUSTED"  # How errors of JAX and TensorStore begin.
# What the system says of this process and not of what lies on the disk.
_PASSING = frozenset((
    errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,
    errno.EINTR, errno.ETIMEDOUT, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN))


@contextlib.contextmanager
def writing(folder: Any) -> Iterator[None]:
  """Turns what Orbax raises where it cannot write into one message.

  Checkpoints are written to a temporary folder and renamed, so that those that were
  complete stay whole.

  Args:
    folder: Where checkpoints are written, for the message.

  Raises:
    errors.Unwritable: If the body raises an OSError, or an error that comes from one.
  """
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:
    if (cause := _cause(error)) is None:
      raise
    raise errors.Unwritable(
        f"{folder}: the checkpoint cannot be written: {cause}. Make room there, and"
        " give the same command again: it goes on from the last complete checkpoint.",
        cause) from error


def passing(error: BaseException | None) -> str | None:
  """Returns why a file could not be read, if that says nothing of what it holds.

  Such as a lack of memory or of permission: the same file may be read later.
  """
  while error is not None:
    if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
      return "not enough memory"
    number = _number(error)
    if number in _PASSING:
      return os.strerror(number)
    error = error.__cause__ or error.__context__
  return None


def _cause(error: BaseException | None) -> str | None:
  """Returns what the system said, or None if the error does not come from it."""
  while error is not None:
    if number := _number(error):
      return os.strerror(number)
    if isinstance(error, OSError):
      return str(error)[:200]
    error = error.__cause__ or error.__context__
  return None


def _number(error: BaseException) -> int | None:
  """Returns the system's number of an error, or None if it has none."""
  if isinstance(error, OSError):
    return error.errno
  found = _OF_SYSTEM.search(str(error))
  return int(found[1]) if found else None
