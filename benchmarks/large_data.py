"""Measures runs on more text than they hold in memory.

Text is generated: sentences of made-up words, whose frequencies fall as in a language.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import threading
import time

import numpy as np

from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import loop
from transfer_gen.run import reader

_MB = 2**20
_WORDS, _LINE = 20_000, 20  # Of the vocabulary; of a line.
_BLOCK = 4096  # Lines that are drawn at a time.


def write(path: pathlib.Path, size: int) -> None:
  """Writes lines of at least `size` bytes in all."""
  generator = np.random.default_rng(0)
  letters = np.array(list("etaoinshrdlu"))
  words = np.array(["".join(generator.choice(letters, generator.integers(2, 9)))
                    for _ in range(_WORDS)])
  shares = 1 / np.arange(1, _WORDS + 1)
  places = np.cumsum(shares / shares.sum())
  with open(path, "w", encoding="utf-8") as file:
    while file.tell() < size:
      drawn = np.searchsorted(places, generator.random((_BLOCK, _LINE)))
      file.write("".join(f"{' '.join(line)}\n" for line in words[
          np.minimum(drawn, _WORDS - 1)].tolist()))


def configure(text: str) -> config_lib.Run:
  """Configures a run of a few steps on a text."""
  return config_lib.Run(
      model=config_lib.Decoder(num_layers=1, width=32, num_heads=2, max_length=128),
      data=config_lib.Data(
          name="files", train=text, unit="line", length=128, max_validation=100,
          max_test=100),
      tokenizer=config_lib.Tokenizer(kind="bpe", size=8192),
      train=config_lib.Train(steps=20, batch_size=16, log_every=10, eval_every=20))


def peak(text: str, cache: str, workdir: str) -> dict[str, float]:
  """Trains in this process, and returns its peak memory with that of its workers."""
  os.environ["TRANSFER_GEN_CACHE"] = cache
  start, ended, found = time.perf_counter(), threading.Event(), [0]

  def watch() -> None:
    while not ended.wait(0.1):
      found[0] = max(found[0], _resident(os.getpid()))

  thread = threading.Thread(target=watch)
  thread.start()
  try:
    loop.train(configure(text), workdir)
  finally:
    ended.set()
    thread.join()
  return {"seconds": time.perf_counter() - start, "mb": found[0] / _MB,
          "alone_mb": timing.memory("VmHWM") / _MB}


def _resident(process: int) -> int:
  """Returns the resident bytes of a process and of all that it started."""
  total = 0
  # Processes end while they are looked at.
  with contextlib.suppress(OSError, KeyError):
    total = timing.memory("VmRSS", process)
    for task in pathlib.Path(f"/proc/{process}/task").iterdir():
      total += sum(_resident(int(child))
                   for child in (task / "children").read_text().split())
  return total


def tokens_per_second(text: str, cache: str) -> float:
  """Reads and tokenizes a text that is in no cache, and reads each row once."""
  os.environ["TRANSFER_GEN_CACHE"] = cache
  run = configure(text)
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as workdir:
    data: inputs_lib.Prepared = reader.Reader().read(run, workdir).data
  facts = data.facts["splits"]["train"]
  batches, size = data.train_batches(16, 0), 16
  for _ in range(sum(facts["rows"].values()) // size):
    next(batches)
  return facts["tokens"] / (time.perf_counter() - start)


def measure(sizes: tuple[int, int]) -> dict[str, float]:
  """Measures runs on two amounts of text, in bytes, each in a process of its own."""
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    text = pathlib.Path(folder, "text.txt")
    for size in sizes:
      write(text, size)
      name = f"{size / _MB:g} MB"
      found[name] = timing.alone(
          peak, str(text), f"{folder}/{size}", f"{folder}/run_{size}")
      print(f"data: {name}: {json.dumps(found[name])}", flush=True)
    write(text, sizes[0])
    speed = timing.alone(tokens_per_second, str(text), f"{folder}/speed")
  small, large = found.values()
  return {
      "data_peak_mb": round(large["mb"], 1),
      "data_peak_growth_mb": round(large["mb"] - small["mb"], 1),
      "data_alone_growth_mb": round(large["alone_mb"] - small["alone_mb"], 1),
      "data_seconds": round(large["seconds"], 1),
      "data_tokens_per_second": round(speed)}
