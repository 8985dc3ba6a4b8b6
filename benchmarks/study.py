"""Measures studies: what they cost beside their runs, and whether their numbers hold.

Run: python -m benchmarks.study [--smallest] [PARTS] (all of these by default)

  intervals: Intervals on simulated studies, whose truth is known (2 minutes).
  cost: The quickstart's study, and its runs one by one (12 minutes).
  kills: A study that is killed by SIGKILL at 20 random moments, each time started
      again, beside one that was not (8 minutes).

The last line is JSON; with `--smallest`, its numbers mean nothing:

  overhead: Seconds of a study over those of its runs one by one, less 1; median of
      three turns. A run here is read, assembled, trained and scored on the test split;
      all of a turn share a process, so that Python and JAX start once. At most 0.02.
  report_seconds: Time to make the page of 200 runs; at most 10.
  report_mb: Its size in MB; at most 5.
  kills: Number of studies that were killed, and `failures`, how many of them did not
      end with the results of the undisturbed one; must be 0.
  effective_data_error: Median over trials of the relative error of the effective data,
      on curves made from power laws with noise. It must be at most 0.05.
  interpolation_error: The same, if the curve is interpolated instead.
  coverage: Share of those trials in which the 95% interval holds the truth. It must lie
      in 0.93 to 0.97, and so must the next ones.
  gain_coverage: The same of the gain, over simulated seeds and documents.
  gain_coverage_of_3, _4, _5: Its parts, by the number of seeds.
  better: Share of studies that call a treatment better which has no effect, in 3, 4 or
      5 seeds; at most 0.06, as the next ones.
  alarms: Share of those studies that raise the alarm for negative transfer.
  alarms_of_three: The same of studies of three pairs with one control.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import signal
import sys
import tempfile
from typing import Any

from benchmarks import study_cost
from benchmarks import study_intervals
from benchmarks import timing
from benchmarks import trust_kills
from experiments import quickstart


def intervals(smallest: bool) -> Mapping[str, float]:
  """Runs 500 simulations of each kind."""
  return study_intervals.run(3 if smallest else 500)


def cost(smallest: bool) -> Mapping[str, float]:
  """Times a study and its page."""
  study = quickstart.get_study()
  with tempfile.TemporaryDirectory() as folder:
    if smallest:
      return study_cost.run(study_cost.smallest(study), 1, 8, pathlib.Path(folder))
    return study_cost.run(study, 3, 200, pathlib.Path(folder))


def kills(smallest: bool) -> Mapping[str, int]:
  """Kills studies."""
  with tempfile.TemporaryDirectory() as folder:
    trust_kills.write(pathlib.Path(folder))
    return trust_kills.run(1 if smallest else 20, 0, pathlib.Path(folder), "study",
                           signals=(signal.SIGKILL,))


PARTS: dict[str, Callable[[bool], Mapping[str, Any]]] = {
    "intervals": intervals, "cost": cost, "kills": kills}


def main(words: Sequence[str]) -> None:
  """Runs the parts that are named, or all, and prints what they found."""
  found: dict[str, Any] = {}
  for name in [word for word in words if word != "--smallest"] or PARTS:
    # A process of its own: none inherits what another one has compiled.
    one = timing.alone(PARTS[name], "--smallest" in words)
    print(f"{name}: {json.dumps(one)}", flush=True)
    found |= one
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1:])
