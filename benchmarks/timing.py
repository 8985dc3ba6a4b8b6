"""Times two things that do the same work, in turns in one process; and memory."""

from collections.abc import Callable
import concurrent.futures
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import time
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Ours beside a peer's.

  Attributes:
    ratio: Median over the rounds of our time by the peer's of that round.
    ours: Median of ours, in seconds a call.
    peer: Median of the peer's.
  """
  ratio: float
  ours: float
  peer: float


def in_turns(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int, calls: int = 1
) -> Comparison:
  """Runs each once for warm-up, then both in every round, the first by turns.

  What else the machine does meets both sides alike, and a ratio within a round
  cancels it.

  Args:
    ours: Returns when its work is done.
    peer: The same.
    rounds: How many times each is timed.
    calls: Calls in a row that are timed as one.
  """
  ours(), peer()
  times: dict[Callable, list[float]] = {ours: [], peer: []}
  for index in range(rounds):
    for run in (ours, peer) if index % 2 else (peer, ours):
      start = time.perf_counter()
      for _ in range(calls):
        run()
      times[run].append((time.perf_counter() - start) / calls)
  return Comparison(
      ratio=statistics.median(a / b for a, b in zip(times[ours], times[peer])),
      ours=statistics.median(times[ours]), peer=statistics.median(times[peer]))


def alone(function: Callable[..., Any], *given: Any) -> Any:
  """Runs a function of a module in a new process."""
  with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")) as process:
    return process.submit(function, *given).result()


def memory(field: str) -> int:
  """Bytes of this process, as Linux counts them in /proc/self/status."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(field + ":"):
      return int(line.split()[1]) * 1024
  raise KeyError(field)


def report(*compare: Callable[[], Comparison]) -> None:
  """Runs each in a new process; prints a table, then one line of JSON.

  Args:
    *compare: Functions of a module, named as the key of their ratio.
  """
  print(f"{'':28} {'ours':>10} {'peer':>10} {'ratio':>8}")
  ratios = {}
  for function in compare:
    found = alone(function)
    name = function.__name__
    ratios[name] = round(found.ratio, 4)
    print(f"{name:28} {found.ours * 1e3:7.2f} ms {found.peer * 1e3:7.2f} ms"
          f" {found.ratio:8.3f}", flush=True)
  print(json.dumps(ratios))
