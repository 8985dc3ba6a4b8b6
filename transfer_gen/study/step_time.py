"""How long a training step takes, measured before a run trains."""

from collections.abc import Sequence
import itertools
import time

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen.run import assemble
from transfer_gen.run import stepping
from transfer_gen.train import step as step_lib

_BATCHES = 32  # Whose lengths stand for those of an epoch.
_MEASURED = 3  # Steps of each shape, after one that compiles.


def tokens(assembled: assemble.Assembled) -> float:
  """Returns the mean number of tokens of a batch that count."""
  batches = _batches(assembled)
  return sum(float(batch["weights"].sum()) for batch in batches) / len(batches)


def seconds(assembled: assemble.Assembled) -> float:
  """Returns the seconds of a step, mean over the shapes of batches of an epoch."""
  assembled = assembled.replace(teacher=None, beginning=None)
  runner = stepping.runner(assembled)
  # Values take no time, so params need not be read.
  params = {name: jnp.zeros(spec.shape, spec.dtype)
            for name, spec in assembled.specs.items()}
  state = runner.place(step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=assembled.optimizer.extend({}, params, 0)))
  batches = _batches(assembled)
  shapes: dict[tuple, list] = {}
  for batch in batches:
    shape = tuple((name, value.shape) for name, value in sorted(batch.items()))
    shapes.setdefault(shape, []).append(batch)
  key, lr, total = jax.random.key(0), np.float32(assembled.run.optim.lr), 0.0
  for alike in shapes.values():
    state, _ = runner.step(state, runner.put(alike[0]), key, lr)  # Compiles.
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(_MEASURED):
      state, _ = runner.step(state, runner.put(alike[0]), key, lr)
    jax.block_until_ready(state)
    total += (time.perf_counter() - begin) / _MEASURED * len(alike) / len(batches)
  return total


def _batches(assembled) -> Sequence[step_lib.Batch]:
  run = assembled.run
  return [*itertools.islice(
      assembled.data.train_batches(run.train.rows, run.seed), _BATCHES)]
