"""Counts which small changes of the code no test notices (mutation testing).

Run: python -m benchmarks.mutation [MUTANTS [SEED [TESTS ...]]] (about 2 hours on 2
cores; needs `pip install cosmic-ray pytest-cov` beside the extra `test`). Cosmic Ray
makes the mutants: an operator, a comparison, a number, a decorator, an exception, a
loop or a truth value is replaced. MUTANTS of them, 300 by default, are drawn from the
engine of transfers, the optimizer, the score and the study. The default suite, or the
files TESTS, runs once, and it is noted which test runs which line; files of which no
line runs have no mutants. Each mutant then meets the tests that run its line,
in a copy of the repository: those of its own folder first, and short ones before long
ones, until their times add up to `_SECONDS`. So a mutant that survives here might still
be killed by the whole suite: the score is a lower bound.

Mutants of annotations are left out, since they change nothing that runs. Survivors are
printed with their changes. The last line is JSON:

  mutants: number of mutants.
  killed: those that a test noticed; those that took longer than the tests may count.
  score: the share of killed ones.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

_MUTATED = ("transfer_gen/transfer/*.py", "transfer_gen/study/*.py",
            "transfer_gen/train/optim.py", "transfer_gen/train/moments.py",
            "transfer_gen/train/score.py")
_SECONDS = 60  # Of the tests that a mutant meets, by their times in the whole suite.
_LIMIT = 400  # Seconds after which a mutant counts as one that hangs.
# What most tests import; done once, before the first fork. Nothing here may start a
# thread, and nothing may import transfer_gen, whose mutants the forks import.
_WARM = ("jax", "flax.linen", "optax", "orbax.checkpoint", "tensorflow_datasets",
         "grain", "torch", "transformers", "hypothesis", "pytest", "tokenizers",
         "sentencepiece", "matplotlib", "ml_collections", "absl.flags")
_Lines = Mapping[str, Mapping[int, Sequence[str]]]  # Tests by file and line.


def main(count: int = 300, seed: int = 0, tests: Sequence[str] = ()) -> None:
  """Draws mutants, runs their tests and prints the score.

  Args:
    count: Number of mutants.
    seed: Decides which.
    tests: Files of tests; if there are none, the default suite.
  """
  root = pathlib.Path(__file__).parents[1]
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, "copy")
    _copy(root, copy)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    # Python compares compiled files by seconds and sizes, which mutants may share.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    measured = _measured(copy, tests)
    found = sorted(_mutants(copy, measured[0]), key=str)
    chosen = random.Random(seed).sample(found, min(count, len(found)))
    print(f"{len(chosen)} of {len(found)} mutants", flush=True)
    _warm(copy)
    killed = 0
    for number, mutant in enumerate(chosen):
      killed += _is_killed(mutant, *measured)
      if number % 10 == 9:
        print(f"{killed} of {number + 1} killed", flush=True)
  print(json.dumps({"mutants": len(chosen), "killed": killed,
                    "score": round(killed / len(chosen), 3)}))


def _copy(root: pathlib.Path, copy: pathlib.Path) -> None:
  """Copies what git tracks, so that the working tree is never changed."""
  names = subprocess.run(["git", "ls-files"], cwd=root, check=True, text=True,
                         capture_output=True).stdout.splitlines()
  for name in names:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / name, copy / name)
  # Some tests read real files that lie beside a checkout.
  if (root.parent / "shared").exists():
    (copy.parent / "shared").symlink_to(root.parent / "shared")


def _measured(
    copy: pathlib.Path, tests: Sequence[str]) -> tuple[_Lines, dict[str, float]]:
  """Runs the suite; returns the tests by file and line, and the seconds of each."""
  import coverage
  (copy / ".coveragerc").write_text(
      "[run]\ninclude =\n" + "".join(f"  {pattern}\n" for pattern in _MUTATED))
  done = subprocess.run(
      [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--cov",
       "--cov-context=test", "--cov-report=", "--durations=0", "-vv", *tests],
      capture_output=True, text=True, cwd=copy)
  print(done.stdout[-200:], flush=True)
  if done.returncode:
    raise SystemExit("The suite does not pass without a mutant.")
  return _tests(coverage.CoverageData(".coverage"), copy), _seconds(done.stdout)


def _tests(data, copy: pathlib.Path) -> _Lines:
  data.read()
  found = {}
  for name in data.measured_files():
    found[os.path.relpath(name, copy)] = {
        # A context is the name of a test and its phase.
        line: sorted({context.rpartition("|")[0] for context in contexts} - {""})
        for line, contexts in data.contexts_by_lineno(name).items()}
  return found


def _seconds(printed: str) -> dict[str, float]:
  found: dict[str, float] = {}
  for seconds, name in re.findall(
      r"^([\d.]+)s (?:call|setup|teardown) +(\S.*)$", printed, re.MULTILINE):
    found[name] = found.get(name, 0.0) + float(seconds)
  return found


def _mutants(
    copy: pathlib.Path, tests: _Lines
) -> Iterator[tuple[str, str, int, tuple[int, int]]]:
  """Yields file, operator, number of the occurrence, and first and last line."""
  from cosmic_ray import ast as trees
  from cosmic_ray import plugins
  operators = {name: plugins.get_operator(name) for name in plugins.operator_names()}
  operators = {name: kind() for name, kind in sorted(operators.items())
               if not kind.arguments()}
  for path in sorted(copy / name for name in tests):
    passive = _annotations(path.read_text())
    nodes = list(trees.ast_nodes(trees.get_ast_from_path(path)))
    for name, operator in operators.items():
      places = [place for node in nodes
                for place in operator.mutation_positions(node)]
      for number, (start, stop) in enumerate(places):
        if not any(first <= start and stop <= last for first, last in passive):
          yield str(path.relative_to(copy)), name, number, (start[0], stop[0])


def _annotations(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
  """Returns where annotations begin and end, each as line and column."""
  found = []
  for node in ast.walk(ast.parse(text)):
    for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
      if part is not None:
        found.append(((part.lineno, part.col_offset),
                      (part.end_lineno, part.end_col_offset)))
  return found


def _warm(copy: pathlib.Path) -> None:
  import importlib
  sys.path.insert(0, str(copy))
  for name in _WARM:
    importlib.import_module(name)


def _is_killed(mutant, tests: _Lines, seconds: Mapping[str, float]) -> bool:
  """Applies a mutant, runs its tests, and takes it back; prints it if it survives."""
  from cosmic_ray import mutating
  from cosmic_ray import plugins
  name, operator, number, (first, last) = mutant
  path = pathlib.Path(name)
  whole = path.read_text()
  chosen = _chosen(name, range(first, last + 1), tests.get(name, {}), seconds)
  changed = mutating.mutate_code(whole, plugins.get_operator(operator)(), number)
  assert changed is not None and changed != whole, mutant
  try:
    path.write_text(changed)
    killed = bool(chosen) and _fails(chosen)
  finally:
    path.write_text(whole)
  if not killed:
    lines = zip(whole.splitlines(), changed.splitlines())
    print(f"survives {len(chosen)} tests: {name}:{first}, {operator}\n" + "\n".join(
        f"  - {old.strip()}\n  + {new.strip()}" for old, new in lines if old != new),
          flush=True)
  return killed


def _chosen(
    name: str, lines: range, tests: Mapping[int, Sequence[str]],
    seconds: Mapping[str, float]) -> list[str]:
  """Returns the tests that run a line, in the order in which they are tried."""
  found = {test for line in lines for test in tests.get(line, ())}
  # What runs when the module is imported has no test of its own.
  found = found or {test for names in tests.values() for test in names}
  part = pathlib.Path(name).parts[1]
  own = lambda test: test.startswith((f"tests/{part}/", name))
  order = sorted(found, key=lambda test: (not own(test), seconds.get(test, 0.0), test))
  chosen, total = [], 0.0
  for test in order:
    total += seconds.get(test, 0.01)
    if chosen and total > _SECONDS:
      break
    chosen.append(test)
  return chosen


def _fails(tests: Sequence[str]) -> bool:
  """Runs tests in a fork of this process, until one fails."""
  pathlib.Path("tests.txt").write_text("\n".join(tests))
  child = os.fork()
  if not child:
    os.setsid()
    for number in (1, 2):
      os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import pytest
    os._exit(pytest.main(
        ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "@tests.txt"]))
  end = time.monotonic() + _LIMIT
  while time.monotonic() < end:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
      return status != 0
    time.sleep(0.05)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return True


if __name__ == "__main__":
  main(*map(int, sys.argv[1:3]), tests=sys.argv[3:])
