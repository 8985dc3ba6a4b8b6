"""Commands that are killed at random moments, and started again.

Each trial starts a command in a process of its own, sends it SIGKILL, SIGTERM or SIGINT
after a random share of the time that it takes, starts it again until it ends, and
compares what it has left with what an undisturbed command left.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from transfer_gen import sources
from transfer_gen.run import records

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_LONGEST = 600  # Seconds of one command.
_THERE = "is there already"  # What `convert` and `generate` say of a whole output.
_CLOCKS = ("seconds", "tokens_per_second", "train_seconds")
_CONFIG = '''
import dataclasses
from transfer_gen import config

def get_config(name="pairs"):
  run = config.Run(
      model=config.Decoder(num_layers=1, width=16, num_heads=2, max_length=32,
                           dropout=0.1),
      data=config.Data(name="files", train="pairs.tsv", input_field="a",
                       target_field="b", length=24),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=2),
      train=config.Train(steps=40, batch_size=8, log_every=5, eval_every=10,
                         checkpoint_every=10))
  if name == "phrases":
    run.data = config.Data(
        name="cldr_translation/en-de", input_field="en", target_field="de",
        length=64, fraction=0.02, too_long="cut")
  return run

def get_study():
  run = dataclasses.replace(get_config(), train=config.Train(
      steps=20, batch_size=8, log_every=5, eval_every=10, checkpoint_every=5))
  return config.Study(
      question="?", runs={"source": run, "scratch": run, "moved": dataclasses.replace(
          run, source=config.Source(run="source"))},
      pairs=(("moved", "scratch"),), samples=1)

'''


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A command to kill: its words after `{out}` is filled in, and what it leaves."""
  words: Sequence[str]
  result: Callable[[pathlib.Path], Any]


def _params(workdir: pathlib.Path) -> dict[str, str]:
  source = sources.open(workdir)
  return {name: hashlib.sha256(np.asarray(value).tobytes()).hexdigest()
          for name, value in source.read(list(source.specs))}


def trained(workdir: pathlib.Path) -> Any:
  """Returns what a training left, without what a clock decides."""
  return _params(workdir), [
      {key: value for key, value in line.items() if key not in _CLOCKS}
      for line in records.read_metrics(workdir)]


def studied(workdir: pathlib.Path) -> Any:
  """Returns what a study found, without what a clock decides."""
  data = json.loads((workdir / "results.json").read_text())
  return [_without_clocks(data[part]) for part in ("runs", "comparisons")]


def _without_clocks(data: Any) -> Any:
  if isinstance(data, dict):
    return {key: _without_clocks(value) for key, value in data.items()
            if key not in _CLOCKS}
  return [_without_clocks(value) for value in data] if isinstance(data, list) else data


def files(folder: pathlib.Path) -> dict[str, str]:
  """Returns the digest of each file of a folder or of one file."""
  found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
  return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in found if path.is_file()}


def prepared(folder: pathlib.Path) -> Any:
  """Returns what a plan counted, and the files of the data that was prepared for it."""
  return json.loads((folder / "plan" / "audit.json").read_text())["totals"], sorted(
      path.name for path in folder.rglob("*.array_record*"))


KINDS = {
    "train": _Kind(("train", "--config=config.py", "--workdir={out}"), trained),
    "study": _Kind(("study", "--config=config.py", "--workdir={out}"), studied),
    "convert": _Kind(("convert", "--source=done", "--to=safetensors",
                      "--output={out}"), files),
    "generate": _Kind(("generate", "--workdir=done", "--prompts=prompts.txt",
                       "--temperature=1", "--max_tokens=9", "--batch_size=8",
                       "--output={out}.jsonl"), files),
    "prepare": _Kind(("plan", "--config=config.py:phrases", "--workdir={out}/plan"),
                     prepared),
}


def run(
    count: int, seed: int, folder: pathlib.Path, kind: str,
    signals: Sequence[signal.Signals] = _SIGNALS,
) -> dict[str, int]:
  """Kills `count` commands of a kind; returns `kills` and `failures`.

  Args:
    count: Number of trials.
    seed: Decides on signals and moments.
    folder: What `prepare` has made.
    kind: A key of `KINDS`.
    signals: Those to choose from.
  """
  generator, failures = random.Random(seed), 0
  whole = folder / f"{kind}_whole"
  start = time.perf_counter()
  code, error = _command(folder, kind, whole)
  assert not code, error
  seconds = time.perf_counter() - start
  want = KINDS[kind].result(_out(whole, kind))
  for trial in range(count):
    out = folder / f"{kind}_{trial}"
    number = generator.choice(signals)
    # In the first second, Python itself starts, and prints what it likes.
    moment = generator.uniform(min(1.0, seconds / 2), seconds)
    code, error = _command(folder, kind, out, (number, moment))
    done = ""
    if code not in (0, -number, 128 + number) or "Traceback" in error:
      done = f"ended with {code}: {error[-500:]}"
    else:
      code, error = (0, "") if code == 0 else _command(folder, kind, out)
      # Who had just written all, when the signal came, does not write it again.
      if code and not (code == 2 and _THERE in error):
        done = f"could not go on: {error[-500:]}"
      elif KINDS[kind].result(_out(out, kind)) != want:
        done = "left another result"
    left = [path for path in folder.iterdir()
            if path.name.startswith(out.name) and path.suffix in (".partial", ".lock")]
    if done or left:
      failures += 1
      print(f"{kind}, trial {trial}, {signal.Signals(number).name} after"
            f" {moment:.2f} s: {done or f'left {left}'}", flush=True)
    for path in (out, *folder.glob(f"{out.name}.*")):
      shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
  return {"kills": count, "failures": failures}


def _out(out: pathlib.Path, kind: str) -> pathlib.Path:
  return out.with_name(out.name + ".jsonl") if kind == "generate" else out


def _command(
    folder: pathlib.Path, kind: str, out: pathlib.Path,
    kill: tuple[int, float] | None = None,
) -> tuple[int, str]:
  """Runs a command, kills it if asked; returns its exit code and what it printed."""
  words = [word.format(out=out) for word in KINDS[kind].words]
  environment = {**os.environ, "TFDS_DATA_DIR": f"{out}/data"}
  process = subprocess.Popen(
      [sys.executable, "-m", "transfer_gen", *words], cwd=folder, env=environment,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  try:
    printed, _ = process.communicate(timeout=kill[1] if kill else _LONGEST)
  except subprocess.TimeoutExpired:
    process.send_signal(kill[0] if kill else signal.SIGKILL)
    printed, _ = process.communicate(timeout=_LONGEST)
  return process.returncode, printed


def prepare(folder: pathlib.Path) -> None:
  """Writes data and a config into a folder, and trains the run `done` there."""
  write(folder)
  code, error = _command(folder, "train", folder / "done")
  assert not code, error


def write(folder: pathlib.Path) -> None:
  """Writes data, prompts and a config into a folder."""
  (folder / "config.py").write_text(_CONFIG)
  words = [f"{'abcdefgh'[i % 8]}{'lmnop'[i % 5]}{i}" for i in range(240)]
  (folder / "pairs.tsv").write_text(
      "a\tb\n" + "".join(f"{word}\t{word[::-1]}\n" for word in words))
  (folder / "prompts.txt").write_text("".join(f"a{i}\n" for i in range(200)))
