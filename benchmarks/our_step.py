"""The training step that `train` runs, bare: no data, no records, no checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve


def make(
    model: config_lib.Decoder | config_lib.Recurrent,
    batch: Mapping[str, np.ndarray],
) -> Callable[[], float]:
  """A function that takes one step (AdamW, clipped, everything learns).

  Args:
    model: The model's config.
    batch: What each step sees.

  Returns:
    A function that returns the loss when the step is done.
  """
  module = registry.build(model)
  specs, plan = registry.specs(module), plan_lib.SCRATCH
  rows = resolve.resolve(plan, {}, specs)
  optimizer = optim.build(config_lib.Optim(), plan.groups, rows, 10_000)
  runner = parallel.runner(
      config_lib.Parallel(), specs, len(batch["inputs"]), 1, optimizer=optimizer,
      nll_fn=objectives.next_token(module, False))
  key = jax.random.key(0)
  params = registry.fresh(module, jax.random.key(0), runner.shardings)(specs)
  state: list[Any] = [runner.place(step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0)))]

  def run() -> float:
    state[0], metrics = runner.step(state[0], runner.put(batch), key)
    return float(metrics["loss"][0])
  return run


def random_batch(vocab_size: int, rows: int, length: int) -> dict[str, np.ndarray]:
  """Tokens at random, every target counted."""
  tokens = np.random.default_rng(0).integers(
      0, vocab_size, (rows, length + 1)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((rows, length), np.float32)}
