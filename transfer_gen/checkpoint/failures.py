"""What the system refuses while a checkpoint is saved."""

from collections.abc import Iterator
import contextlib
import os
from typing import Any

from transfer_gen import errors
from transfer_gen import system


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


def _cause(error: BaseException | None) -> str | None:
  """Returns what the system said, or None if the error does not come from it."""
  while error is not None:
    if number := system.number(error):
      return os.strerror(number)
    if isinstance(error, OSError):
      return str(error)[:200]
    error = error.__cause__ or error.__context__
  return None
