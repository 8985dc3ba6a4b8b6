"""The one exception for what a user can get wrong."""


class UserError(ValueError):
  """Bad input: the message says what, where, and the edit that mends it.

  The command line prints it without a traceback and exits with code 2.
  """
