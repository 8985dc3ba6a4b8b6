"""The command line: `python -m transfer_gen COMMAND [--flag=value ...]`."""

from collections.abc import Sequence
import importlib
from importlib import metadata
import io
import os
import sys
from typing import NoReturn

from absl import logging

from transfer_gen import errors
from transfer_gen import interrupt
from transfer_gen.commands import declarations
from transfer_gen.commands import flags
from transfer_gen.commands import help as help_lib
from transfer_gen.commands import process

_HELP = ("-h", "--help", "-help")


def run(argv: Sequence[str] | None = None) -> None:
  """Runs one command, and turns the user's mistakes into one message.

  Args:
    argv: Program, command and flags. If None, those of this process.

  Raises:
    SystemExit: With code 2 for a mistake of the user, with 0 after `--help` and
      `--version`, with 130 after Ctrl-C and 143 after SIGTERM.
  """
  name, *words = (sys.argv if argv is None else argv)[1:] or [""]
  if name in (*_HELP, "help"):
    _finish(help_lib.usage())
  if name in ("--version", "-version"):
    _finish(f"transfer-gen {metadata.version('transfer_gen')}")
  if not name:
    print(help_lib.usage())
    sys.exit(2)
  if name not in declarations.COMMANDS:
    _fail(f"{name!r} is not a command.\n\n{help_lib.usage()}")
  # Before flags are parsed, so that a wrong command line can still ask for help.
  if any(word in _HELP for word in words):
    _finish(help_lib.command(name))
  # Both set environment variables, so they come before anything that imports JAX.
  # Only a process that was started for one command may replace itself, or decide what
  # signals do.
  if argv is None:
    if declarations.COMMANDS[name].computes:
      process.use_large_pages()
    interrupt.listen()
    _show_all()
  process.keep_compiled_programs()
  _run_command(name, words)


def _run_command(name: str, words: Sequence[str]) -> None:
  try:
    values = flags.parse(name, words)
    # Orbax logs each step of a save through absl, and also errors that it raises.
    logging.set_verbosity(logging.FATAL)
    # By name, and only now: the modules of the commands import JAX.
    importlib.import_module(f"transfer_gen.commands.{name}").run(values)
    sys.stdout.flush()  # Here, where a full disk still gives a message.
  except errors.UserError as error:
    _fail(str(error))
  except BrokenPipeError:
    _drop_output()  # The reader of our output has left, as `head` does.
  except OSError as error:
    # What opens and writes files names them; without a name, it was the output.
    if not error.filename:
      _drop_output()
    _fail(f"{error.filename or 'the output'}: {error.strerror or error}. Give another"
          " path, or make room there.")
  except interrupt.Interrupted as signal:
    print(f"transfer-gen: {signal}", file=sys.stderr)
    sys.exit(signal.code)


def _show_all() -> None:
  """Lets the output show characters that its encoding lacks, as escapes."""
  # Python would end in the middle of a text, with a traceback.
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
  # Python flushes stdout when it exits, which would fail once more.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _finish(text: str) -> NoReturn:
  print(text)
  sys.exit(0)


def _fail(message: str) -> NoReturn:
  print(f"transfer-gen: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  run()
