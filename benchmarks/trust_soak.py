"""Trains, evaluates and generates on one workdir at once, for a long time."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks import timing

# Repeats a command in one process until a file appears, and prints the number of calls
# and the memory in bytes after a tenth of the time and at the end.
_REPEAT = """
import contextlib, io, json, pathlib, sys, time
from benchmarks import timing
from transfer_gen import __main__ as main
seconds, words = float(sys.argv[1]), sys.argv[2:]
start, calls, early = time.monotonic(), 0, 0
while (now := time.monotonic() - start) < seconds:
  with contextlib.redirect_stdout(io.StringIO()):
    main.run(["transfer-gen", *words])
  calls += 1
  if now < seconds / 4:
    early = max(early, timing.memory("VmRSS"))
print(json.dumps({"calls": calls, "early": early, "late": timing.memory("VmRSS")}))
"""


def run(minutes: float, folder: pathlib.Path) -> dict[str, Any]:
  """Runs the three commands side by side.

  Args:
    minutes: How long.
    folder: What `trust_kills.prepare` has made.

  Returns:
    `minutes`; `steps` that were trained meanwhile; the number of `evaluations` and
    `generations`; `growth` of each process's memory from the first quarter to the end,
    relative to it; and `failures`, the processes that failed.
  """
  trains = _start(folder, "-m", "transfer_gen", "train", "--config=config.py",
                  "--workdir=soak", "--config.train.steps=100000000",
                  "--config.train.log_every=1000", "--config.train.eval_every=1000",
                  "--config.train.checkpoint_every=1000")
  while not list((folder / "soak" / "checkpoints" / "best").glob("[0-9]*")):
    assert trains.poll() is None, trains.communicate()[0]
    time.sleep(0.1)
  seconds = str(60 * minutes)
  others = {
      "evaluations": _start(folder, "-c", _REPEAT, seconds, "evaluate",
                            "--workdir=soak"),
      "generations": _start(folder, "-c", _REPEAT, seconds, "generate",
                            "--workdir=soak", "--prompt=a1", "--max_tokens=9")}
  growth, counts, failures = {}, {}, 0
  time.sleep(15 * minutes)  # Seconds: a quarter of the time.
  early = timing.memory("VmRSS", trains.pid)
  for name, process in others.items():
    printed, _ = process.communicate()
    if process.returncode:
      print(f"{name}: {printed[-2000:]}", flush=True)
      failures += 1
      continue
    found = json.loads(printed.splitlines()[-1])
    counts[name] = found["calls"]
    growth[name] = round(found["late"] / found["early"] - 1, 4)
  growth["training"] = round(timing.memory("VmRSS", trains.pid) / early - 1, 4)
  trains.send_signal(signal.SIGTERM)
  printed, _ = trains.communicate()
  if trains.returncode != 128 + signal.SIGTERM or "Traceback" in printed:
    print(f"train: {printed[-2000:]}", flush=True)
    failures += 1
  steps = max(int(path.name) for path in (folder / "soak" / "checkpoints").glob("*")
              if path.name.isdigit())
  return {"minutes": minutes, "steps": steps, **counts,
          "growth": growth, "failures": failures}


def _start(folder: pathlib.Path, *words: str) -> subprocess.Popen:
  root = str(pathlib.Path(__file__).parents[1])
  return subprocess.Popen(
      [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": root})
