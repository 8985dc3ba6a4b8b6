"""The exception for everything that a user can get wrong."""


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
