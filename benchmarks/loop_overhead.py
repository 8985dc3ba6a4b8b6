"""Compares `train` with its bare step, and the data pipeline with training."""

from collections.abc import Callable
import contextlib
import os
import pathlib
import statistics
import tempfile
import time

from benchmarks import large_data
from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.run import records

_STEPS, _WINDOW = 50, 10  # The first window contains the compilation and is left out.
_ROUNDS = 5
_TOKENS = 16 * 128  # Of a step.
_BYTES = 10 * 2**20  # Of the text that is prepared: more than is held in memory.


def _run() -> config_lib.Run:
  """Configures a run that logs and saves checkpoints, on 16 x 128 tokens per step."""
  return config_lib.Run(
      model=config_lib.Decoder(
          vocab_size=8192, num_layers=4, width=256, num_heads=4, max_length=256),
      data=config_lib.Data(name="python_docs", length=128),
      tokenizer=config_lib.Tokenizer(kind="bpe", size=8192),
      train=config_lib.Train(
          steps=_STEPS, batch_size=16, log_every=_WINDOW, eval_every=_STEPS,
          checkpoint_every=2 * _WINDOW))


def loop_over_step() -> timing.Comparison:
  """Compares the time per step in `train` with that of the bare jitted step.

  Each round trains a new run and then takes as many bare steps. A ratio compares the
  two within a round, so that slow changes of the machine cancel.
  """
  through, bare = [], []
  with tempfile.TemporaryDirectory() as folder:
    step = _bare(assemble.build(_run(), folder))
    for round_ in range(_ROUNDS):
      workdir = pathlib.Path(folder) / str(round_)
      with open(os.devnull, "w", encoding="utf-8") as quiet, (
          contextlib.redirect_stdout(quiet)):
        loop.train(_run(), workdir)
      windows = [line["seconds"] for line in records.read_metrics(workdir)
                 if line["split"] == "train"][1:]
      through.append(sum(windows) / (len(windows) * _WINDOW))
      bare.append(step())
  return timing.Comparison(
      ours=statistics.median(through), peer=statistics.median(bare),
      ratio=statistics.median(mine / base for mine, base in zip(through, bare)))


def _bare(setup: assemble.Assembled) -> Callable[[], float]:
  """Returns a function that runs only the steps and returns seconds per step."""
  step = our_step.make(setup.run.model, next(setup.data.train_batches(16, 0)))
  step()

  def run():
    start = time.perf_counter()
    for _ in range(_STEPS - _WINDOW):
      step()
    return (time.perf_counter() - start) / (_STEPS - _WINDOW)
  return run


def data_over_training() -> timing.Comparison:
  """Compares tokens per second of preparing data with those of the step.

  Each round reads a text that is in no cache, tokenizes it, lays it out in rows, and
  reads each row once.
  """
  pipeline_seconds, step_seconds = [], []
  with tempfile.TemporaryDirectory() as folder:
    text = pathlib.Path(folder, "text.txt")
    large_data.write(text, _BYTES)
    step = _bare(assemble.build(_run(), folder))
    for round_ in range(_ROUNDS):
      speed = large_data.tokens_per_second(str(text), f"{folder}/cache_{round_}")
      pipeline_seconds.append(_TOKENS / speed)
      step_seconds.append(step())
  return timing.Comparison(
      ours=statistics.median(pipeline_seconds), peer=statistics.median(step_seconds),
      ratio=statistics.median(
          step / pipeline for pipeline, step in zip(pipeline_seconds, step_seconds)))
