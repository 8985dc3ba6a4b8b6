"""Trains, evaluates and generates on one workdir at once, for a long time."""

from collections.abc import Sequence
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import timing

_EVALUATE = ("evaluate", "--workdir=soak")
_GENERATE = ("generate", "--workdir=soak", "--prompt=a1", "--max_tokens=9")


def run(minutes: float, folder: pathlib.Path) -> dict[str, Any]:
  """Runs the three commands side by side.

  Args:
    minutes: How long.
    folder: What `trust_kills.prepare` has made.

  Returns:
    `minutes`; `steps` that were trained meanwhile; the number of `evaluations` and
    `generations`; `growth` of memory, from the mean of the first quarter to that of the
    last, relative to the former: of the training as it runs, and of the peak of each
    other command; and `failures`, the processes that failed.
  """
  trains = _start(folder, "-m", "transfer_gen", "train", "--config=config.py",
                  "--workdir=soak", "--config.train.steps=100000000",
                  "--config.train.log_every=1000", "--config.train.eval_every=1000",
                  "--config.train.checkpoint_every=1000")
  while not list((folder / "soak" / "checkpoints" / "best").glob("[0-9]*")):
    assert trains.poll() is None, trains.communicate()[0]
    time.sleep(0.1)
  calls = {"evaluations": _EVALUATE, "generations": _GENERATE}
  peaks: dict[str, list[int]] = {name: [] for name in (*calls, "training")}
  failures, end = 0, time.monotonic() + 60 * minutes
  while time.monotonic() < end:
    started = {name: _start(folder, "-m", "transfer_gen", *words)
               for name, words in calls.items()}
    for name, process in started.items():
      printed, peak = _finish(process)
      peaks[name].append(peak)
      if process.returncode:
        print(f"{name}: {printed[-2000:]}", flush=True)
        failures += 1
    peaks["training"].append(timing.memory("VmRSS", trains.pid))
  trains.send_signal(signal.SIGTERM)
  printed, _ = trains.communicate()
  if trains.returncode != 128 + signal.SIGTERM or "Traceback" in printed:
    print(f"train: {printed[-2000:]}", flush=True)
    failures += 1
  steps = max(int(path.name) for path in (folder / "soak" / "checkpoints").glob("*")
              if path.name.isdigit())
  return {"minutes": minutes, "steps": steps,
          **{name: len(peaks[name]) for name in calls},
          "growth": {name: _growth(found) for name, found in peaks.items()},
          "failures": failures}


def _start(folder: pathlib.Path, *words: str) -> subprocess.Popen:
  root = str(pathlib.Path(__file__).parents[1])
  return subprocess.Popen(
      [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": root})


def _finish(process: subprocess.Popen) -> tuple[str, int]:
  """Waits for a process; returns what it printed, and its peak memory in bytes."""
  assert process.stdout is not None
  printed = process.stdout.read()
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  return printed, usage.ru_maxrss * 1024


def _growth(sizes: Sequence[int]) -> float:
  part = max(len(sizes) // 4, 1)
  return round(statistics.mean(sizes[-part:]) / statistics.mean(sizes[:part]) - 1, 4)
