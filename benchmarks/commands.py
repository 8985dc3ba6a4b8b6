"""Measures the time of `--help`, and of `plan` for a source of 100 million params.

Run: python -m benchmarks.commands. The last line is JSON.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen.data import tokenizers
from transfer_gen.models import registry

_ROUNDS = 3
_SIZES = dict(num_layers=12, width=768, num_heads=12, max_length=1024)
# The target has another vocabulary, so that the plan has to match tokens.
_CONFIG = '''
from transfer_gen.config import Data, Decoder, Run, Source, Tokenizer
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

def get_config():
  return Run(
      model=Decoder(**SIZES),
      data=Data(name="python_docs"), tokenizer=Tokenizer(size=4096),
      source=Source(path="source"),
      transfer=TransferPlan(
          rules=(Rule(target="(.*)", source=r"\\1"),),
          axes=(On(axis="vocab", map=MatchTokens()),),
          groups=(Group(name="all", params=".*"),)))
'''


def main() -> None:
  """Measures both commands and prints the median times."""
  with tempfile.TemporaryDirectory() as folder:
    params = _write_source(pathlib.Path(folder) / "source")
    (pathlib.Path(folder) / "config.py").write_text(f"SIZES = {_SIZES}\n{_CONFIG}")
    seconds = {
        "help_seconds": _time(folder, "train", "--help"),
        "plan_100m_seconds": _time(
            folder, "plan", "--config=config.py", "--workdir=planned")}
  print(f"source of {params:,} params")
  print(json.dumps(seconds))


def _write_source(folder: pathlib.Path) -> int:
  """Writes a workdir with a random checkpoint, and returns its number of params."""
  module = registry.build(config_lib.Decoder(vocab_size=20_480, **_SIZES))
  specs = registry.specs(module)
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save_best(
      1, registry.fresh(module, jax.random.key(0))(specs),
      {"axes": checkpoint.axes_facts(specs)})
  checkpoints.close()
  tokenizers.build(config_lib.Tokenizer(kind="bytes"), ()).save(folder / "tokenizer")
  return sum(spec.size for spec in specs.values())


def _time(folder: str, *words: str) -> float:
  """Returns the median wall time of a command in seconds."""
  times = []
  for _ in range(_ROUNDS):
    start = time.perf_counter()
    subprocess.run((sys.executable, "-m", "transfer_gen", *words), cwd=folder,
                   check=True, stdout=subprocess.DEVNULL)
    times.append(time.perf_counter() - start)
  return round(statistics.median(times), 2)


if __name__ == "__main__":
  main()
