"""Counts what goes wrong under kills, damage, hostile files and long use.

Run: python -m benchmarks.trust [PART ...] [--smallest]
The parts are those of `PARTS`; by default, all run, in about 2 hours on 2 cores (extra
`benchmarks`). Each prints its counts as it ends, and the last line is JSON with all of
them. Every `failures` must be 0, `planted_share` 1, `flips_share_of_time` at most 0.05,
and each `growth` of the soak at most 0.05. What is counted is said where it is done:

  kills: `trust_kills`: train (40), study, convert (20 each), generate and preparation
      of data (10 each), killed at random moments and started again.
  checkpoints: `malformed`: 10,000 mutated checkpoint files.
  tokenizers, data, configs, runs: 2,000 mutated tokenizers, 2,000 data files, 1,000
      configs and plans, 500 folders of runs.
  planted: 500 plans with one mistake each; the share that is refused by its name.
  flips: 200 flipped bits in checkpoints, and what noticing them costs.
  devices: `trust_devices`: eight simulated devices and one, on every family.
  soak: `trust_soak`: 20 minutes of train, evaluate and generate on one workdir.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import timing
from benchmarks import trust_configs
from benchmarks import trust_data
from benchmarks import trust_devices
from benchmarks import trust_flips
from benchmarks import trust_kills
from benchmarks import trust_runs
from benchmarks import trust_soak
from benchmarks import trust_tokenizers

_KILLS = {"train": 40, "study": 20, "convert": 20, "generate": 10, "prepare": 10}


def kills(share: float) -> dict[str, Any]:
  """Kills commands of each kind, a share of the numbers in `_KILLS`."""
  with tempfile.TemporaryDirectory() as folder:
    trust_kills.prepare(pathlib.Path(folder))
    return {kind: trust_kills.run(_of(count, share), 0, pathlib.Path(folder), kind)
            for kind, count in _KILLS.items()}


def checkpoints(share: float) -> dict[str, Any]:
  """Runs `benchmarks.malformed`, whose line it returns."""
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.malformed", str(_of(1112, share))],
      capture_output=True, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  return {**found, "failures": sum(found[name] for name in (
      "wrong", "unclear", "crashed", "hung", "left_outside"))}


def planted(share: float) -> dict[str, Any]:
  """Plants one mistake in each of 500 plans."""
  return {"plans": _of(500, share),
          "planted_share": trust_configs.planted(_of(500, share), 0)}


def flips(share: float) -> dict[str, Any]:
  """Flips 200 bits, and measures what the digests take of a save and a restore."""
  return {**trust_flips.run(_of(200, share), 0), "flips_share_of_time": round(
      trust_flips.share_of_time(int(512 * max(share, 1 / 64)), 5), 4)}


def devices(share: float) -> dict[str, Any]:
  """Compares devices, on all families whatever the share."""
  del share
  with tempfile.TemporaryDirectory() as folder:
    return trust_devices.run(pathlib.Path(folder))


def soak(share: float) -> dict[str, Any]:
  """Trains, evaluates and generates for 20 minutes."""
  with tempfile.TemporaryDirectory() as folder:
    trust_kills.prepare(pathlib.Path(folder))
    return trust_soak.run(20 * share, pathlib.Path(folder))


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "kills": kills,
    "checkpoints": checkpoints,
    "tokenizers": lambda share: trust_tokenizers.run(_of(2000, share), 0),
    "data": lambda share: trust_data.run(_of(2000, share), 0),
    "configs": lambda share: trust_configs.run(_of(1000, share), 0),
    "runs": lambda share: trust_runs.run(_of(500, share), 0),
    "planted": planted, "flips": flips, "devices": devices, "soak": soak}


def _of(count: int, share: float) -> int:
  return max(1, round(count * share))


def part(name: str, share: float) -> dict[str, Any]:
  """Runs one part; for a process of its own, since some fork and some use devices."""
  start = time.monotonic()
  return {**PARTS[name](share), "minutes": round((time.monotonic() - start) / 60, 1)}


def main(words: Sequence[str]) -> None:
  """Runs the parts that are named, or all, and prints their counts."""
  share = 0.01 if "--smallest" in words else 1.0
  found = {}
  for name in [word for word in words if word != "--smallest"] or PARTS:
    found[name] = timing.alone(part, name, share)
    print(f"{name}: {json.dumps(found[name])}", flush=True)
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1:])
