"""The same run on one device and on eight, for every family of models."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from transfer_gen import sources
from transfer_gen.run import records

FAMILIES = ("decoder", "rotary", "pair", "rnn", "gru", "lstm", "lstm_pair")
_LAYOUTS = {"jit": (), "fsdp": ("--config.parallel.fsdp=4",),
            "pmap": ("--config.parallel.mode=pmap",)}
_CONFIG = '''
from transfer_gen import config

TRANSFORMER = dict(num_layers=2, width=16, num_heads=4, max_length=32)
RECURRENT = dict(num_layers=2, embed_width=16, hidden_width=16)

def get_config(name):
  pairs = name in ("pair", "lstm_pair")
  model = {
      "decoder": lambda: config.Decoder(**TRANSFORMER),
      "rotary": lambda: config.Decoder(**TRANSFORMER, position="rotary", tied=False),
      "pair": lambda: config.EncoderDecoder(**TRANSFORMER),
      "lstm_pair": lambda: config.Recurrent(cell="lstm", encoder=True, **RECURRENT),
  }.get(name, lambda: config.Recurrent(cell=name, **RECURRENT))()
  return config.Run(
      model=model,
      data=config.Data(name="files", train="pairs.tsv", length=24, input_field=(
          "a" if pairs else ""), target_field="b"),
      tokenizer=config.Tokenizer(kind="characters"), optim=config.Optim(warmup_steps=2),
      train=config.Train(steps=20, batch_size=16, log_every=1, eval_every=20,
                         checkpoint_every=20))
'''


def run(folder: pathlib.Path) -> dict[str, Any]:
  """Trains each family on one device, and on eight in three layouts.

  Args:
    folder: An empty folder.

  Returns:
    `families` and `layouts` that were compared, `largest_difference` of a training loss
    of any step, in nats, and `failures`: runs that ended with an error, or whose losses
    or params differ by more than 1e-5.
  """
  (folder / "config.py").write_text(_CONFIG)
  words = [f"{'abcdefgh'[i % 8]}{'lmnop'[i % 5]}{i}" for i in range(240)]
  (folder / "pairs.tsv").write_text(
      "a\tb\n" + "".join(f"{word}\t{word[::-1]}\n" for word in words))
  largest, failures = 0.0, 0
  for family in FAMILIES:
    runs = {"one": _train(folder, family, "one", 1), **{
        name: _train(folder, family, name, 8, *words)
        for name, words in _LAYOUTS.items()}}
    for name, error in runs.items():
      if error:
        print(f"{family}, {name}: {error}", flush=True)
        failures += 1
        continue
      losses, params = (
          _distance(folder, family, name, of) for of in (_losses, _params))
      largest = max(largest, losses)
      if max(losses, params) > 1e-5:
        print(f"{family}, {name}: losses differ by {losses}, params by {params}")
        failures += 1
  return {"families": len(FAMILIES), "layouts": len(_LAYOUTS),
          "largest_difference": largest, "failures": failures}


def _train(
    folder: pathlib.Path, family: str, name: str, devices: int, *words: str) -> str:
  """Trains in a process with so many simulated devices; returns its error or ""."""
  root = str(pathlib.Path(__file__).parents[1])
  done = subprocess.run(
      [sys.executable, "-m", "transfer_gen", "train", f"--config=config.py:{family}",
       f"--workdir={family}_{name}", *words], cwd=folder, capture_output=True,
      text=True, check=False, env={
          **os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu",
          "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"})
  return done.stderr[-500:] if done.returncode else ""


def _distance(folder, family, name, of) -> float:
  one, other = of(folder / f"{family}_one"), of(folder / f"{family}_{name}")
  return max(float(np.abs(one[key] - other[key]).max()) for key in one)


def _losses(workdir: pathlib.Path) -> dict[Any, Any]:
  return {(line["step"], line["split"]): np.asarray(line["loss"])
          for line in records.read_metrics(workdir)}


def _params(workdir: pathlib.Path) -> dict[Any, Any]:
  source = sources.open(workdir)
  return {name: np.asarray(value) for name, value in source.read(list(source.specs))}
