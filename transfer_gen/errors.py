"""The exception for everything that a user can get wrong."""

from collections.abc import Iterator
import contextlib
import traceback

_SHOWN = 200  # Characters of a cause that a message quotes.


class UserError(ValueError):
  """Bad input; the message says what is wrong, where, and how to fix it.

  The command line prints it without a traceback and exits with code 2.
  """


class Unwritable(UserError):
  """A file cannot be written: the disk is full, broken or read-only.

  Attributes:
    cause: What the system said.
  """

  def __init__(self, message: str, cause: str):
    super().__init__(message)
    self.cause = cause


def cause(error: BaseException) -> str:
  """Returns what an error says, in one line without a full stop, for another message.

  Errors of Python and of libraries say little without the name of their class; a
  `UserError` is a whole sentence, and its class says nothing to a user.
  """
  # Some libraries write several lines.
  text = " ".join(str(error).split())
  if isinstance(error, UserError):
    return text[:_SHOWN].rstrip(".")
  return f"{type(error).__name__}: {text[:_SHOWN]}".rstrip(".: ")


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
  """Puts what is wrong at the front of a `UserError` that is raised inside."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{what}: {error}") from error


def last_lines(error: BaseException, count: int = 3) -> list[str]:
  """Returns the end of what Python prints of an error; of a `UserError` its message."""
  if isinstance(error, UserError):
    return str(error).splitlines()
  text = "".join(traceback.format_exception(error))
  return [line.rstrip()[:_SHOWN] for line in text.splitlines() if line.strip()][-count:]
