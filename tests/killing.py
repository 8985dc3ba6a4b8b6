"""Commands that are killed, or whose disk is full, when they reach a certain file.

Python reports each file that it opens, makes, renames or removes to an audit hook, and
the hook of the command sends the signal. So a command dies at the same point each time,
on a machine of any speed. A limit on the size of files stands for the full disk: the
system refuses what is written beyond it, and needs no mount for that.
"""

import pathlib
import re
import signal

from tests import processes

_PROGRAM = """
import os, re, resource, sys
number, point, *words = sys.argv[1:]
def watch(event, args):
  if event != "open" and not event.startswith("os."):
    return
  if not args or not isinstance(args[0], (str, bytes, os.PathLike)):
    return
  if event == "open" and (args[1] or "r")[0] == "r":
    return
  if re.search(f"{point}$", f"{event} {os.fsdecode(args[0])}"):
    if number == "full":
      resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    else:
      os.kill(os.getpid(), int(number))
sys.addaudithook(watch)
sys.argv = ["transfer-gen", *words]
from transfer_gen import __main__ as main
main.run()
"""
LEFT = re.compile(r"\.(partial|lock|progress)$|incomplete")


def kill(folder: pathlib.Path, point: str, number: signal.Signals, *words: str) -> str:
  """Starts a command in a folder, in which it is killed; returns what it printed.

  Args:
    folder: Where it runs.
    point: A regex for the end of the event at which it is killed: `os.rename out` when
      that is about to be renamed, `open out/a` when that is about to be written.
    number: The signal.
    *words: The command.
  """
  code, printed = _run(folder, str(int(number)), point, *words)
  killed = -number if number == signal.SIGKILL else 128 + number
  assert code == killed, (code, printed)
  assert "Traceback" not in printed, printed
  return printed


def fill(folder: pathlib.Path, point: str, *words: str) -> str:
  """Starts a command whose disk is full from a point on; returns its only message."""
  code, printed = _run(folder, "full", point, *words)
  assert code == 2 and "Traceback" not in printed, (code, printed)
  assert printed.count("transfer-gen: ") == 1, printed
  return printed.splitlines()[-1]


def finish(folder: pathlib.Path, *words: str) -> str:
  """Runs a command to its end, on one device as `kill` does; returns what it prints."""
  code, printed = _run(folder, "0", "no such event", *words)
  assert code == 0, printed
  return printed


def _run(folder: pathlib.Path, *words: str) -> tuple[int, str]:
  # On a full disk, the cache of compiled programs, which others read, is no part of
  # what fails.
  process = processes.start(
      _PROGRAM, *words, folder=folder, cache=words[0] != "full")
  printed = process.stdout.read()
  return process.wait(), printed


def left(folder: pathlib.Path) -> list[str]:
  """Returns files and folders that are only there while a command is at work."""
  return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))
          if LEFT.search(path.name)]
