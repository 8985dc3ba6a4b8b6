"""What the operating system says of this process, and not of what lies on the disk.

A lack of memory, of permission or of open files, or a device that fails, is no fault of
the file that was being read: it must not be called damaged, or be fetched again.
"""

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
_PASSING = frozenset((
    errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,
    errno.EINTR, errno.ETIMEDOUT, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN))
_DEVICE = frozenset((errno.EIO, errno.ENXIO, errno.ENODEV))
AGAIN = "Mend that, and give the same command again."


def passing(error: BaseException | None) -> str | None:
  """Returns why a file could not be read, if that says nothing of what it holds.

  Such as a lack of memory or of permission: the same file may be read later.

  Args:
    error: What was raised; what it comes from is looked at too.
  """
  while error is not None:
    if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
      return "not enough memory"
    found = number(error)
    if found in _PASSING:
      return os.strerror(found)
    error = error.__cause__ or error.__context__
  return None


def check(where: Any, error: BaseException) -> None:
  """Raises another error if one says nothing of what a file holds.

  Args:
    where: The file, for the message.
    error: What was raised while it was read.

  Raises:
    errors.UserError: If it is `passing`, or a device fails; with what the system said.
  """
  cause = passing(error) or _of_device(error)
  if cause and isinstance(error, errors.UserError):
    raise error  # It says so already.
  if cause:
    raise errors.UserError(
        f"{where}: cannot be read now: {cause}. {AGAIN}") from error


@contextlib.contextmanager
def reading(where: Any) -> Iterator[None]:
  """Turns what the system says while the body reads a file into one message.

  Args:
    where: The file, for the message.

  Raises:
    errors.UserError: As `check`, if the body raises an OSError or a MemoryError.
  """
  try:
    yield
  except (OSError, MemoryError) as error:
    check(where, error)
    raise


def _of_device(error: BaseException | None) -> str | None:
  while error is not None:
    if (found := number(error)) in _DEVICE:
      return os.strerror(found)
    error = error.__cause__ or error.__context__
  return None


def number(error: BaseException) -> int | None:
  """Returns the system's number of an error, or None if it has none."""
  if isinstance(error, OSError):
    return error.errno
  found = _OF_SYSTEM.search(str(error))
  return int(found[1]) if found else None
