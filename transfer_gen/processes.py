"""Several processes that train one run together, on the distributed runtime of JAX.

JAX finds the processes, starts the runtime, and makes the devices of all of them one
list; Orbax and `jax.jit` then work over all of them. Here is what is left to a program:
to know which process it is, to agree with the others, and to end together. In a single
process nothing is started, and every function returns at once.
"""

import atexit
from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax

# The store of texts that all processes see has no public name. Orbax uses it too.
from jax._src import distributed
from jax.experimental import multihost_utils

from transfer_gen import errors
from transfer_gen import interrupt

_SILENCE = 60  # Seconds without a sign of life after which JAX ends all processes.
_PATIENCE = 240  # Seconds in which process 0 must begin to listen.
_LONGEST = 24 * 3600  # Seconds that one process may wait for another.
_GRACE = 5.0  # Seconds in which the others read why a process ends.
_SHOWN = 60  # Characters of a value that a message quotes.
_LINES = 12  # Facts that a message lists.
_STORE, _END = "transfer_gen", "transfer_gen/end"
_ADDRESS, _COUNT, _INDEX = (  # Variables in place of the flags.
    "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Variables in which launchers that JAX knows say how many processes they have started.
_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class _Group:
  """The processes of this work, as one of them sees them."""

  def __init__(self):
    self.index, self.count = jax.process_index(), jax.process_count()
    self.store: Any = distributed.global_state.client
    self.rounds = itertools.count()
    self.stops = False  # Whether all end after the same step.

  def name(self, index: int) -> str:
    """Returns how messages call a process."""
    return f"process {index} of {self.count}"


_GROUP: list[_Group] = []  # Empty in a single process.


def count() -> int:
  """Returns how many processes do this work together."""
  return _GROUP[0].count if _GROUP else 1


def is_first() -> bool:
  """Whether this process is the one that writes metrics, reports and notes."""
  return not _GROUP or _GROUP[0].index == 0


@contextlib.contextmanager
def joined(coordinator: str = "", size: int = 0, index: int = -1) -> Iterator[None]:
  """Joins the processes of a command while the body runs.

  Without arguments the environment decides: the variables of JAX, or what JAX itself
  finds on a TPU slice, under Slurm and under Open MPI. If it says nothing, this process
  is the only one, and nothing happens.

  While the body runs, standard output shows what process 0 prints. If the body raises
  in one process, all of them end, with a message that names it.

  Args:
    coordinator: HOST:PORT at which process 0 can be reached by all.
    size: Number of processes.
    index: Number of this one, from 0.

  Raises:
    errors.UserError: If the arguments do not fit, the processes do not find each other,
      or they run other versions.
  """
  if not _start(*_arguments(coordinator, size, index)):
    yield
    return
  group = _Group()
  _GROUP.append(group)
  watcher = threading.Thread(target=_watch, args=(group,), daemon=True)
  watcher.start()
  try:
    with errors.naming(group.name(group.index)), _quiet(), (
        interrupt.shared(lambda step: _reached(group, step))):
      yield
  except interrupt.Interrupted as interrupted:
    if group.stops:
      _leave(group, watcher)
    else:
      _fail(group, interrupted, interrupted.code)
    raise
  except OSError as error:
    named = errors.UserError(
        f"{group.name(group.index)}: {error.filename or 'the output'}:"
        f" {error.strerror or error}. Give another path, or make room there.")
    _fail(group, named, 2)
    raise named from error
  except errors.UserError as error:
    _fail(group, error, 2)
    raise
  except BaseException as error:
    error.add_note(f"In {group.name(group.index)}.")
    if isinstance(error, jax.errors.JaxRuntimeError):
      _await_cause(group, error)
    _fail(group, error, 1)
    raise
  else:
    _leave(group, watcher)


def refuse(what: str) -> None:
  """Refuses to work where a launcher has started several processes.

  Args:
    what: What works in a single one, such as "`study`".

  Raises:
    errors.UserError: If the environment says that there are several.
  """
  if _several():
    raise errors.UserError(
        f"{what} works in a single process, and {_several()} says that there are"
        " several. Start one; `train` is the command that several processes share.")


def gather(text: str) -> list[str]:
  """Returns a text of each process, by its number. All of them must call this."""
  if not _GROUP:
    return [text]
  group = _GROUP[0]
  key = f"{_STORE}/{next(group.rounds)}"
  group.store.key_value_set(f"{key}/{group.index}", text)
  return [text if other == group.index else group.store.blocking_key_value_get(
      f"{key}/{other}", _LONGEST * 1000) for other in range(group.count)]


def agree(facts: Mapping[str, Any]) -> None:
  """Checks that all processes have the same facts.

  Args:
    facts: Values that JSON can hold, by what people call them.

  Raises:
    errors.UserError: In every process, if a fact differs; names each one, and what it
      is in which process.
  """
  if not _GROUP:
    return
  shown = {name: _short(json.dumps(value, sort_keys=True))
           for name, value in facts.items()}
  found = [json.loads(text) for text in gather(json.dumps(shown))]
  lines = []
  for name in dict.fromkeys(itertools.chain.from_iterable(found)):
    values: dict[str, list[str]] = {}
    for index, theirs in enumerate(found):
      values.setdefault(theirs.get(name, "missing"), []).append(str(index))
    if len(values) > 1:
      lines.append(f"{name}: " + "; ".join(
          f"{value} in process {', '.join(where)}" for value, where in values.items()))
  if lines:
    more = [f"and {len(lines) - _LINES} more"] if lines[_LINES:] else []
    raise errors.UserError(
        "\n  ".join(["the processes do not agree:", *lines[:_LINES], *more])
        + "\nStart all of them with the same code, command and files.")


def by_first(action: Callable[[], object]) -> None:
  """Calls a function in process 0, and lets the others wait until it has returned.

  If it raises, all of them end.
  """
  if is_first():
    action()
  _wait()


def _arguments(coordinator: str, size: int, index: int) -> tuple[str, int, int]:
  """Returns the arguments of `joined`, from the environment where they are left out."""
  given = (coordinator, size, index)
  if given == ("", 0, -1):
    environment = os.environ
    try:
      given = (environment.get(_ADDRESS, ""), int(environment.get(_COUNT, 0)),
               int(environment.get(_INDEX, -1)))
    except ValueError as error:
      raise errors.UserError(
          f"{_COUNT} and {_INDEX} must be whole numbers: {errors.cause(error)}."
      ) from error
    # A launcher that JAX knows may say the rest.
    if given[1:] == (0, -1) or not given[0]:
      return given if given[0] else ("", 0, -1)
  coordinator, size, index = given
  if not (coordinator and size > 0 and 0 <= index < size):
    raise errors.UserError(
        f"--coordinator={coordinator or '(none)'} --processes={size}"
        f" --process={index}: give HOST:PORT of process 0, the number of processes, and"
        " the number of this one, from 0 to one less. The variables"
        f" {_ADDRESS}, {_COUNT} and {_INDEX} may stand for them.")
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal():
    raise errors.UserError(
        f"--coordinator={coordinator}: must be HOST:PORT, such as 10.0.0.1:8476.")
  return given


def _start(coordinator: str, size: int, index: int) -> bool:
  """Starts the runtime; returns whether there are several processes."""
  if size == 1 or not (coordinator or _launched()):
    return False
  if coordinator and index >= 0:
    _check_address(coordinator, size, index)
  if coordinator and index == 0:
    # JAX waits for five minutes, and then aborts without a word on who is missing.
    print(f"process 0 of {size} waits at {coordinator} for the others", flush=True)
  try:
    jax.distributed.initialize(
        coordinator or None, size or None, index if index >= 0 else None,
        heartbeat_timeout_seconds=_SILENCE)
  except ValueError as error:
    # What JAX says where it finds no cluster: a TPU VM may be a single host.
    if not coordinator:
      return False
    raise errors.UserError(
        f"{_ADDRESS}={coordinator}: {errors.cause(error)}. Set {_COUNT} and {_INDEX}"
        " too, or give --coordinator, --processes and --process.") from error
  except RuntimeError as error:
    who = f"process {index} of {size}" if size else "this process"
    raise errors.UserError(
        f"{who} does not find the others at {coordinator or 'the coordinator'}:"
        f" {errors.cause(error)}. All of them must be started within a few minutes,"
        " with the same address, at which process 0 must be able to listen.") from error
  if distributed.global_state.num_processes > 1:
    return True
  # A TPU VM of its own. The runtime has taken SIGTERM to itself.
  jax.distributed.shutdown()
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  return False


def _check_address(coordinator: str, size: int, index: int) -> None:
  """Raises if an address is taken, or nobody listens there: JAX would crash."""
  host, _, port = coordinator.rpartition(":")
  until = time.monotonic() + _PATIENCE
  while True:
    try:
      if index:
        # IPv6 addresses stand in brackets.
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
      else:
        with socket.socket() as listener:
          listener.bind(("", int(port)))
      return
    except (OSError, OverflowError) as error:
      if index == 0 or time.monotonic() > until:
        raise errors.UserError(
            f"process {index} of {size} cannot {'reach' if index else 'listen at'}"
            f" {coordinator}: {errors.cause(error)}. Give all processes the same"
            " --coordinator, a free port of the machine of process 0, and start them"
            " within a few minutes.") from error
      time.sleep(0.2)


def _several() -> str:
  """Returns the variable that says that there are several processes, or nothing."""
  return next((name for name in (_COUNT, *_LAUNCHERS)
               if os.environ.get(name, "1") not in ("", "1")), "")


def _launched() -> bool:
  """Whether a launcher that JAX knows may have started several processes."""
  if _several():
    return True
  # JAX asks the TPU's own metadata how many hosts it has.
  platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
  return "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops what processes but the first print: all of them would print the same."""
  if is_first():
    yield
    return
  with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
    yield


def _reached(group: _Group, step: int) -> bool:
  """Whether all processes end after this step, because one of them was told to."""
  if multihost_utils.reached_preemption_sync_point(step):
    group.stops = True
  return group.stops


def _short(text: str) -> str:
  """Returns a text, or of a long one its beginning and a digest."""
  if len(text) <= _SHOWN:
    return text
  return f"{text[:_SHOWN]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"


def _wait() -> None:
  gather("")


def _leave(group: _Group, watcher: threading.Thread) -> None:
  """Ends the runtime, in order; all processes arrive here."""
  _wait()
  if group.index == 0:
    group.store.key_value_set(_END, json.dumps({}))
  watcher.join()
  _GROUP.clear()
  jax.distributed.shutdown()


def _fail(group: _Group, error: BaseException, code: int) -> None:
  """Tells the others that this process ends, and why; then it may end at once."""
  why = str(error) if isinstance(error, errors.UserError) else errors.cause(error)
  if not why.startswith(group.name(group.index)):
    why = f"{group.name(group.index)}: {why}"
  # Without shutting the runtime down, which would wait for the others, who may wait for
  # this process: the handler that is registered last is called first.
  atexit.register(_end, code)
  try:
    group.store.key_value_set(_END, json.dumps(
        {"process": group.index, "why": why, "code": code}))
  except RuntimeError:
    # Another one has failed before, or the store is gone with process 0. The watcher,
    # or JAX, is about to say so.
    time.sleep(_GRACE)
    return
  seen = lambda: len(group.store.key_value_dir_get(f"{_STORE}/seen/"))
  until = time.monotonic() + _GRACE
  while time.monotonic() < until and seen() < group.count - 1:
    time.sleep(0.05)


def _await_cause(group: _Group, error: Exception) -> None:
  """Lets JAX say which process is lost, where that may be why a program failed."""
  if "RESOURCE_EXHAUSTED" in str(error):  # It is this one's own memory.
    return
  print(f"transfer-gen: {group.name(group.index)}: {errors.cause(error)}. If another"
        f" process is lost, JAX says which one within {_SILENCE} seconds, and aborts.",
        file=sys.stderr, flush=True)
  time.sleep(_SILENCE + _GRACE)


def _watch(group: _Group) -> None:
  """Waits until the work ends; if another process has failed, ends this one."""
  while True:
    try:
      found = json.loads(group.store.blocking_key_value_get(_END, _LONGEST * 1000))
      break
    except RuntimeError:
      # The time is over, or process 0 has gone, and then JAX ends this process.
      time.sleep(1)
  if not found or found["process"] == group.index:
    return
  print(f"transfer-gen: {group.name(group.index)} ends, because another one has failed."
        f" {found['why']}", file=sys.stderr, flush=True)
  with contextlib.suppress(RuntimeError):
    group.store.key_value_set(f"{_STORE}/seen/{group.index}", "")
  if group.index == 0:
    time.sleep(_GRACE)  # With it the store goes, and whoever is left is aborted by JAX.
  _end(found["code"])


def _end(code: int) -> None:
  # The main thread may wait for a process that is gone, and cannot be interrupted.
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(code)
