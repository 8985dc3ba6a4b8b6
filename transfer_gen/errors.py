"""The exception for everything that a user can get wrong."""


class UserError(ValueError):
  """Bad input; the message says what is wrong, where, and how to fix it.

  The command line prints it without a traceback and exits with code 2.
  """
