"""What damaged tokenizer files do to the libraries that read them, as messages."""

from collections.abc import Iterator
import contextlib

from transfer_gen import errors

_GAPS = 2**17  # Ids without a token that every vocabulary may have.


# The libraries raise bare `Exception`s. Where Rust code has a bug, which a damaged file
# may reach, it panics: that is a BaseException, of a class that cannot be imported.
@contextlib.contextmanager
def told() -> Iterator[None]:
  """Turns what a tokenizer library raises for a damaged file into one message.

  Raises:
    errors.UserError: If the body raises anything that comes from the library.
  """
  try:
    yield
  except errors.UserError:
    raise
  except BaseException as error:
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise  # Ctrl-C, for example.
    raise errors.UserError(
        f"the tokenizer cannot be used ({' '.join(str(error).split())[:200]}). Its file"
        " is damaged, or no tokenizer.json, SentencePiece .model or other form that is"
        " read. Fetch it again."
    ) from error


def check_gaps(size: int, count: int) -> None:
  """Checks that ids reach not much further than there are tokens.

  Tables have a row for each id, so that one damaged id could fill the memory.

  Args:
    size: One more than the largest id.
    count: Number of tokens.

  Raises:
    errors.UserError: If most ids would stand for nothing.
  """
  if size > _GAPS + 2 * count:
    raise errors.UserError(
        f"its {count:,} tokens have ids up to {str(size - 1)[:30]}: one is damaged."
        " Fetch or write it again.")
