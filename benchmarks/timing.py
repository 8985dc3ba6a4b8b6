"""Times two things that do the same work, in turns in one process."""

from collections.abc import Callable
import dataclasses
import json
import statistics
import time


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


def report(**comparisons: Comparison) -> None:
  """Prints a table, then one line of JSON with the ratios."""
  print(f"{'':28} {'ours':>10} {'peer':>10} {'ratio':>8}")
  for name, c in comparisons.items():
    print(f"{name:28} {c.ours * 1e3:7.2f} ms {c.peer * 1e3:7.2f} ms {c.ratio:8.3f}")
  print(json.dumps({name: round(c.ratio, 4) for name, c in comparisons.items()}))
