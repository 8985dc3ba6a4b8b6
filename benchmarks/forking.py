"""Runs functions in forked processes with limits, and mutates what they read."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import os
import pathlib
import random
import select
import signal
import sys
import tempfile
import time
from typing import Any

from benchmarks import malformed_files
from benchmarks import timing
from transfer_gen import errors

SECONDS = 10  # Limit of a mutant, of the processor's time.
_WAIT = 12  # So many times the limit by the clock, since other processes run as well.
_LONGEST = 1500  # Characters of an error.
_FILES, _BYTES = 3, 200 * 2**20  # Peak memory: so many times the file, or these bytes.
_ODD = (None, True, -1, 0, 2**70, 1e308, "", "\ud800", "x" * 5000, [], {}, [[]],
        {"a": None}, float("nan"), [None] * 3)


def alone(
    function: Callable[..., dict[str, Any]], *given: Any, seconds: float = SECONDS
) -> dict[str, Any]:
  """Runs a function in a forked process, so that a crash does not affect this one.

  Args:
    function: The function.
    *given: Its arguments.
    seconds: After so much of the processor's time, or `_WAIT` times as long by the
      clock, the process is killed.

  Returns:
    What it returns; or `outcome`, which is "crashed" or "hung".
  """
  receive, send = os.pipe()
  sys.stdout.flush()
  child = os.fork()
  if not child:
    os.close(receive)
    try:
      os.write(send, json.dumps(function(*given)).encode())
    finally:
      os._exit(0)
  os.close(send)
  end = time.monotonic() + _WAIT * seconds
  ready: list[int] = []
  while not ready and time.monotonic() < end and _used(child) < seconds:
    ready, _, _ = select.select([receive], [], [], seconds / 10)
  answer = os.read(receive, 2**16) if ready else b""
  if not ready:
    os.kill(child, signal.SIGKILL)
  os.close(receive)
  os.waitpid(child, 0)
  if answer:
    return json.loads(answer)
  return {"outcome": "crashed" if ready else "hung", "seconds": seconds, "peak": 0}


def _used(process: int) -> float:
  """Returns the seconds of the processor that a process has used."""
  # Behind the name in parentheses, which may hold spaces: fields 14 and 15 of them all.
  fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attempt(path: str, read: Callable[[str], str]) -> dict[str, Any]:
  """Reads a mutant, and returns the outcome, the time, the peak memory and a cause.

  Args:
    path: The mutant. A refusal must name it, or the folder above it.
    read: Reads it; returns "loaded", or "wrong" where what it read must not be.
  """
  base, start, cause = timing.memory("VmRSS"), time.perf_counter(), ""
  with silent() as errors_file:
    try:
      outcome = read(path)
    except errors.UserError as error:
      cause = str(error)
      outcome = "refused" if is_clear(cause) else "unclear"
    except BaseException as error:  # Must never happen; each occurrence is counted.
      cause, outcome = f"{type(error).__name__}: {error}", "unclear"
    if "Traceback" in pathlib.Path(errors_file).read_text(errors="replace"):
      cause, outcome = f"{cause} (a traceback was printed)", "unclear"
  return {"outcome": outcome, "seconds": time.perf_counter() - start,
          "peak": timing.memory("VmHWM") - base, "cause": cause[:300]}


def is_clear(message: str) -> bool:
  """Whether an error is short, and more than what a library says."""
  return 20 < len(message) < _LONGEST and "Traceback" not in message


@contextlib.contextmanager
def silent() -> Iterator[str]:
  """Sends all output of this process to files; yields the path of the errors."""
  with tempfile.TemporaryDirectory() as folder:
    kept = os.dup(1), os.dup(2)
    for number, name in ((1, "out"), (2, "err")):
      with open(f"{folder}/{name}", "wb") as file:
        os.dup2(file.fileno(), number)
    try:
      yield f"{folder}/err"
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      for number, saved in zip((1, 2), kept):
        os.dup2(saved, number)
        os.close(saved)


def summary(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Counts outcomes; each result also has `size`, the bytes of what was read."""
  found = list(results)
  counts = {kind: sum(result["outcome"] == kind for result in found) for kind in (
      "refused", "loaded", "wrong", "unclear", "crashed", "hung", "outside")}
  large = sum(result["peak"] > max(_FILES * result["size"], _BYTES) for result in found)
  failures = len(found) - counts["refused"] - counts["loaded"] + large
  return {"mutants": len(found), **counts, "large": large, "failures": failures,
          "slowest_s": round(max(result["seconds"] for result in found), 2),
          "peak_mb": round(max(result["peak"] for result in found) / 2**20, 1)}


def show(name: str, seed: int, result: dict[str, Any]) -> None:
  """Prints a mutant that failed."""
  if result["outcome"] not in ("refused", "loaded") or result["peak"] > max(
      _BYTES, _FILES * result["size"]):
    print(f"{name}, seed {seed}: {result['outcome']}, {result['peak'] >> 20} MB:"
          f" {result.get('cause', '')}", flush=True)


def mutate(data: bytes, seed: int) -> bytes:
  """Changes bytes; or, in half of what is JSON, values, names and the structure."""
  rng = random.Random(seed)
  if rng.random() < 0.5:
    try:
      value = json.loads(data)
    except (ValueError, RecursionError):
      value = None
    if isinstance(value, (dict, list)) and value:
      for _ in range(rng.choice([1, 1, 2, 4])):
        _change(value, rng)
      return json.dumps(value).encode()
  return malformed_files.mutant(data, seed).data if data else b"\0"


def _change(value: Any, rng: random.Random) -> None:
  """Changes one entry of nested dicts and lists in place."""
  while True:
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
      return
    key = rng.choice(keys)
    if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.8:
      value = value[key]
      continue
    break
  kind = rng.random()
  if kind < 0.2:
    del value[key]
  elif kind < 0.3 and isinstance(value, dict):
    value[f"{key}x"] = value.pop(key)
  elif kind < 0.5:
    others = list(value.values()) if isinstance(value, dict) else value
    value[key] = rng.choice(others)
  elif kind < 0.6:
    value[key] = _nested(rng.choice([50, 500]))
  else:
    value[key] = rng.choice(_ODD)


def _nested(depth: int) -> list[Any]:
  value: list[Any] = []
  for _ in range(depth):
    value = [value]
  return value
