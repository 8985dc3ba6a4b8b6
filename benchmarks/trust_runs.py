"""Checks that damaged folders of runs are refused clearly, or give the right result.

Run: python -m benchmarks.trust_runs [COUNT [SEED]]
A run of a second is trained. In each mutant one of its files is changed, cut, emptied,
removed or replaced by a folder. Then one command reads the folder, in a process of its
own: `plan` of a run that has it as its source, `generate`, `evaluate` or `train`, which
goes on. `run` says what is counted.
"""

import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
from typing import Any

from benchmarks import forking
from benchmarks import timing

_LONGEST = 120  # Seconds of a command on the whole folder.
_CONFIG = '''
from transfer_gen import config
def get_config(arg=""):
  source = {{"source": config.Source(path=arg)}} if arg else {{}}
  return config.Run(
      model=config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32),
      data=config.Data(name="files", train={text!r}, length=16),
      tokenizer=config.Tokenizer(kind="{kind}"), optim=config.Optim(warmup_steps=1),
      train=config.Train(steps={steps}, batch_size=8, log_every=1, eval_every=2,
                         checkpoint_every=2), **source)
'''
_COMMANDS = ("plan", "generate", "evaluate", "train")


def run(count: int, seed: int) -> dict[str, Any]:
  """Reads mutated folders of a finished run.

  Args:
    count: Number of mutants.
    seed: Of the mutations.

  Returns:
    As `forking.summary`: `wrong` counts commands that ended well with another result
    than for the whole folder; `outside` counts those that left a file outside of it;
    `failures` must be 0.
  """
  # In a process of its own, in which nothing has started JAX: a fork of one that has
  # would wait for threads that are not there.
  return timing.alone(_run, count, seed)


def _run(count: int, seed: int) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as folder:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    timing.alone(_train, folder)
    _warm()
    good = pathlib.Path(folder, "good")
    right = {}
    for command in _COMMANDS:
      for _ in range(2):  # The first one fills the cache of compiled programs.
        right[command] = _in_copy(good, lambda path: None, command, {})
        if right[command]["outcome"] != "loaded":
          raise RuntimeError(f"{command} of the whole folder: {right[command]}")
    results = []
    for number in range(count):
      rng = random.Random(f"{seed} {number}")
      command = rng.choice(_COMMANDS)
      target = rng.choice(sorted(
          path.relative_to(good) for path in good.rglob("*") if path.is_file()))
      results.append(_in_copy(
          good, lambda copy, rng=rng, target=target: _damage(copy / target, rng),
          command, right[command]))
      forking.show(f"{command}, {target}", number, results[-1])
  return forking.summary(results)


def _in_copy(
    good: pathlib.Path, damage: Any, command: str, right: dict[str, Any],
) -> dict[str, Any]:
  """Runs a command on a damaged copy of a folder.

  Args:
    good: The folder.
    damage: Damages a copy of it.
    command: The command.
    right: What this function returned for the whole folder, or {} for that folder.
      Memory and time are counted above that: JAX and the compiler take most of both.
  """
  # Every copy has the same path, so that messages and results do not differ by it.
  root = good.parent / "copy"
  shutil.rmtree(root, ignore_errors=True)
  shutil.copytree(good, root / "run")
  damage(root / "run")
  before = _outside(root)
  limit = right["seconds"] + forking.SECONDS if right else _LONGEST
  result = forking.alone(
      _command, str(root), command, right.get("result", ""), seconds=limit)
  if _outside(root) != before and result["outcome"] != "hung":
    result["outcome"] = "outside"
  size = sum(path.stat().st_size for path in good.rglob("*") if path.is_file())
  peak = max(result["peak"] - right["peak"], 0) if right else result["peak"]
  return result | {"size": size, "peak": peak}


def _command(root: str, command: str, right: str) -> dict[str, Any]:
  """Runs a command in this process, and returns the outcome and its result."""
  from transfer_gen import __main__ as main
  workdir = f"{root}/run"
  folder = pathlib.Path(root).parent
  words = {
      "plan": [f"--config={folder}/new.py:{workdir}", f"--workdir={root}/planned"],
      "generate": [f"--workdir={workdir}", "--prompt=line 1", "--temperature=0",
                   "--max_tokens=12"],
      "evaluate": [f"--workdir={workdir}", "--split=test"],
      "train": [f"--config={folder}/longer.py", f"--workdir={workdir}"]}[command]
  start = forking.time.perf_counter()
  with forking.silent() as err:
    code: Any = 0
    cause = ""
    try:
      main.run(["transfer_gen", command, *words])
    except SystemExit as end:
      code = end.code or 0
    except BaseException as error:
      code, cause = 1, f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    printed = pathlib.Path(err).with_name("out").read_text(errors="replace")
    said = pathlib.Path(err).read_text(errors="replace")
  result = _result(command, printed)
  if code == 2 and forking.is_clear(said) and root in said:
    outcome = "refused"
  elif code == 0 and "Traceback" not in said:
    outcome = "wrong" if right and result != right else "loaded"
    cause = f"{result!r} instead of {right!r}" if outcome == "wrong" else ""
  else:
    outcome, cause = "unclear", f"code {code}: {cause or said[-250:]}"
  return {"outcome": outcome, "result": result, "cause": cause,
          "peak": timing.memory("VmHWM"),
          "seconds": forking.time.perf_counter() - start}


def _result(command: str, printed: str) -> str:
  """What must be the same for a damaged folder as for the whole one."""
  if command == "generate":
    return printed[-200:]
  if command == "plan":
    return " ".join(re.findall(r"\d+ leaves|[\d.]+ ?%", printed))[:200]
  try:
    facts = json.loads(printed.strip().splitlines()[-1])
  except (ValueError, IndexError):
    return printed[-200:]
  return json.dumps({name: value for name, value in facts.items()
                     if name in ("loss", "step", "best_step", "best_validation_loss",
                                 "bits_per_byte")}, sort_keys=True)


def _damage(path: pathlib.Path, rng: random.Random) -> None:
  kind = rng.random()
  data = path.read_bytes()
  path.unlink()
  if kind < 0.1:
    return
  if kind < 0.2:
    path.mkdir()
  elif kind < 0.3:
    path.write_bytes(b"")
  else:
    path.write_bytes(forking.mutate(data, rng.randrange(2**32)))


def _outside(root: pathlib.Path) -> set[pathlib.Path]:
  """Files beside the folder of the run, and beside the one that `plan` writes."""
  return {path for path in root.rglob("*")
          if path.relative_to(root).parts[0] not in ("run", "planned")}


def _train(folder: str) -> None:
  """Trains the run, and writes the configs that the commands take."""
  from transfer_gen import __main__ as main
  text = f"{folder}/text.txt"
  pathlib.Path(text).write_text("\n".join(
      f"line {i}, {i * 7 % 13}" for i in range(99)))
  for name, steps in (("good", 4), ("longer", 4), ("new", 2)):
    pathlib.Path(folder, f"{name}.py").write_text(
        _CONFIG.format(text=text, steps=steps, kind="characters"))
  with forking.silent():
    main.run(["transfer_gen", "train", f"--config={folder}/good.py",
              f"--workdir={folder}/good"])
  # As if it had been killed before its last checkpoint, so that `train` has work to do.
  shutil.rmtree(f"{folder}/good/checkpoints/4")


def _warm() -> None:
  """Imports all that the commands import, before the first fork."""
  import importlib
  for command in _COMMANDS:
    importlib.import_module(f"transfer_gen.commands.{command}")


if __name__ == "__main__":
  print(json.dumps(run(*map(int, [*sys.argv[1:], 500, 0][:2]))))
