"""Measures times of two functions in alternation, and the memory of a process."""

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
  """The times of our function and of a peer's.

  Attributes:
    ratio: Median over the rounds of our time divided by the peer's in that round.
    ours: Median of our times, in seconds per call.
    peer: Median of the peer's times, in seconds per call.
  """
  ratio: float
  ours: float
  peer: float


def in_turns(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int, calls: int = 1
) -> Comparison:
  """Runs each function once as a warm-up, then times both in every round.

  The two alternate in going first. Other load on the machine affects both, so that it
  mostly cancels in the ratio within a round.

  Args:
    ours: Our function. It must return only when its work is done.
    peer: The peer's function, likewise.
    rounds: How many times each is timed.
    calls: Number of consecutive calls that are timed as one.
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
      ratio=statistics.median(
          mine / theirs for mine, theirs in zip(times[ours], times[peer])),
      ours=statistics.median(times[ours]), peer=statistics.median(times[peer]))


def alone(function: Callable[..., Any], *given: Any) -> Any:
  """Runs a function in a new process, and returns its result."""
  # A forked process would inherit the memory and threads of this one.
  with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")) as process:
    return process.submit(function, *given).result()


def memory(field: str, process: int | str = "self") -> int:
  """Returns a memory field of /proc/PROCESS/status in bytes: VmRSS or VmHWM."""
  for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
    if line.startswith(field + ":"):
      return int(line.split()[1]) * 1024
  raise KeyError(field)


def report(*compare: Callable[[], Comparison]) -> None:
  """Runs each comparison in a new process; prints a table, then one line of JSON.

  Args:
    *compare: Functions whose names become the keys of their ratios.
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
