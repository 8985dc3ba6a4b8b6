"""Processes that tests kill, stop and look at, started without importing JAX for each.

Importing what a command needs takes longer than what it does in a test. So one process
has imported it, has used no device, and forks: what it starts has its own memory,
signals and exit code, as a process that a user starts has.
"""

from collections.abc import Callable
import dataclasses
import functools
import inspect
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any, TextIO

from tests import paths

COMMAND = "from transfer_gen import __main__\n__main__.run()"
_LONGEST = 2**16  # Bytes of an order.
_SERVER = f"""
import gc, importlib, json, os, socket, sys
import jax
from transfer_gen.commands import declarations
for name in declarations.COMMANDS:
  importlib.import_module(f"transfer_gen.commands.{{name}}")
gc.freeze()
orders = socket.socket(fileno=int(sys.argv[1]))
while True:
  text, files, *_ = socket.recv_fds(orders, {_LONGEST}, 2)
  if not text:
    break
  order = json.loads(text)
  if "ended" in order:
    process, status = os.waitpid(order["ended"], os.WNOHANG)
    code = os.waitstatus_to_exitcode(status) if process else None
    orders.send(json.dumps(code).encode())
    continue
  child = os.fork()
  if child:
    for file in files:
      os.close(file)
    orders.send(json.dumps(child).encode())
    continue
  orders.close()
  for number, file in enumerate(files, 1):
    os.dup2(file, number)
  os.chdir(order["folder"])
  os.environ.clear()
  os.environ.update(order["environment"])
  jax.config.update("jax_enable_compilation_cache", order["cache"])
  sys.argv = order["argv"]
  exec(order["program"], {{"__name__": "__main__"}})
  break
"""


@dataclasses.dataclass
class Process:
  """A process that was started.

  Attributes:
    pid: Its number.
    stdout: What it prints.
    stderr: Its errors; empty where they are shown among what it prints.
    code: The exit code, once it is known: minus the signal that killed the process.
  """
  pid: int
  stdout: TextIO
  stderr: TextIO
  code: int | None = None

  def send_signal(self, number: int) -> None:
    """Sends a signal, unless the process has ended."""
    if self.ended() is None:
      os.kill(self.pid, number)

  def ended(self) -> int | None:
    """Returns the exit code, or None while the process runs."""
    if self.code is None:
      self.code = _ask({"ended": self.pid})
    return self.code

  def wait(self, seconds: float = 600) -> int:
    """Returns the exit code, once the process has ended.

    Args:
      seconds: After so many seconds by the clock, the process is killed.

    Raises:
      TimeoutError: If it was killed because it took longer.
    """
    end = time.monotonic() + seconds
    while (code := self.ended()) is None:
      if time.monotonic() > end:
        self.send_signal(signal.SIGKILL)
        raise TimeoutError(f"process {self.pid}")
      time.sleep(0.01)
    return code


def start(
    program: str, *words: str, folder: pathlib.Path, together: bool = True,
    cache: bool = True,
) -> Process:
  """Starts a program in a process of its own, on one device.

  Args:
    program: Python, such as `COMMAND`. All commands of the package are imported.
    *words: Its arguments, without the name of the program.
    folder: Where it runs.
    together: Whether its errors are shown among what it prints.
    cache: Whether compiled programs may be read from the cache, and written there.
  """
  (out, to_out), (errors, to_errors) = os.pipe(), os.pipe()
  pid = _ask({"program": program, "argv": ["transfer-gen", *words],
              "folder": str(folder), "environment": _environment(), "cache": cache},
             to_out, to_out if together else to_errors)
  os.close(to_out), os.close(to_errors)
  return Process(pid, open(out), open(errors))


def call(function: Callable[..., None], *words: Any) -> None:
  """Calls a function of a file of tests in a process of its own, on one device.

  Args:
    function: Any that can be imported.
    *words: Its arguments, which it gets as texts.
  """
  module = pathlib.Path(inspect.getfile(function)).relative_to(paths.ROOT)
  name = ".".join(module.with_suffix("").parts)
  process = start(
      f"import sys\nfrom {name} import {function.__name__} as function\n"
      "function(*sys.argv[1:])", *map(str, words), folder=paths.ROOT)
  printed = process.stdout.read()
  assert process.wait() == 0, printed


def _ask(order: dict[str, Any], *files: int) -> Any:
  text = json.dumps(order).encode()
  assert len(text) < _LONGEST
  socket.send_fds(_server(), [text], files)
  return json.loads(_server().recv(_LONGEST))


@functools.cache
def _server() -> socket.socket:
  """Starts the process that forks, which ends with this one; returns its socket."""
  mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  subprocess.Popen(
      [sys.executable, "-c", _SERVER, str(its.fileno())], pass_fds=(its.fileno(),),
      env=_environment())
  its.close()
  return mine


def _environment() -> dict[str, str]:
  return {
      **os.environ, "PYTHONPATH": str(paths.ROOT),
      # With GLIBC_TUNABLES, a command does not replace its process.
      "GLIBC_TUNABLES": "",
      "JAX_COMPILATION_CACHE_DIR": str(paths.ROOT / ".cache" / "xla"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
