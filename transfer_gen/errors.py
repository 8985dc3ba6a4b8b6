"""The exception for everything that a user can get wrong."""

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
