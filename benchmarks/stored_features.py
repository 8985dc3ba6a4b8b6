"""Compares training from stored hidden states with running the frozen layers.

Only the output of 4,096 tokens learns, on top of 12 layers of width 768. A step has 16
rows of 128 tokens from the pipeline that `train` uses, including its reading from disk.
"""

from collections.abc import Callable
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.distill import loss
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import feed as feed_lib
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib

_MODEL = config_lib.Decoder(
    vocab_size=4096, num_layers=12, width=768, num_heads=12, max_length=128, tied=False)
_ROWS, _LENGTH = 16, 128
_PLAN = plan_lib.TransferPlan(
    rules=(plan_lib.Rule(target=".*", source=None),),
    groups=(plan_lib.Group(name="head", params="head/.*"),
            plan_lib.Group(name="body", params=".*", unfreeze_step=None)))


def stored_features_share(rounds: int = 7) -> timing.Comparison:
  """Compares the speed-up by stored features with the one expected from operations.

  The speed-up is the steps per second from stored features over those of the live run.
  Both the measured and the expected one are printed.

  Args:
    rounds: How many times both are timed.

  Returns:
    A comparison whose `ratio` is the measured speed-up over `paper_ratio()`. `ours` is
    the run from stored features, and `peer` the live one.
  """
  with tempfile.TemporaryDirectory() as folder:
    stored = _stepper(pathlib.Path(folder), config_lib.Features())
    live = _stepper(pathlib.Path(folder), None)
    found = timing.in_turns(stored, live, rounds)
  print(f"stored features: {1 / found.ratio:.2f} times the live steps a second,"
        f" {paper_ratio():.2f} on paper")
  return timing.Comparison(
      ratio=1 / found.ratio / paper_ratio(), ours=found.ours, peer=found.peer)


def paper_ratio() -> float:
  """Returns the operations of the live step over those from stored features.

  Per token, a layer costs 24 D^2 + 4 T D. The logits cost 2 D V, and so does the
  gradient of the output's kernel.
  """
  width, head = _MODEL.width, 2 * 2 * _MODEL.width * _MODEL.vocab_size
  body = _MODEL.num_layers * (24 * width ** 2 + 4 * _LENGTH * width)
  return (body + head) / head


def _stepper(
    folder: pathlib.Path, features: config_lib.Features | None
) -> Callable[[], float]:
  """Returns a function that takes one step and returns its loss when it is done."""
  texts = np.random.default_rng(0).integers(97, 123, (96, _LENGTH - 2), np.uint8)
  (folder / "text.txt").write_bytes(b"\n".join(row.tobytes() for row in texts))
  run = config_lib.Run(
      model=_MODEL, transfer=_PLAN, features=features,
      data=config_lib.Data(
          name="files", train=str(folder / "text.txt"), length=_LENGTH),
      tokenizer=config_lib.Tokenizer(kind="bytes"),
      train=config_lib.Train(batch_size=_ROWS))
  setup = assemble.build(run, folder)
  runner = parallel.make_runner(
      run.parallel, setup.specs, _ROWS, 1, optimizer=setup.optimizer,
      nll_fn=loss.objective(None, setup.model, False, setup.beginning))
  params = registry.fresh(setup.model, jax.random.key(0), runner.shardings)(setup.specs)
  feed = feed_lib.prepare(setup, params, None, runner.put, folder)
  key, state = jax.random.key(0), [runner.place(step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=setup.optimizer.extend({}, params, 0)))]

  def run_step() -> Any:
    state[0], metrics = runner.step(state[0], feed.put(next(feed.batches)), key)
    return float(metrics["loss"][0])
  return run_step
