"""How the steps of a run are taken on its devices."""

import math

from transfer_gen import config as config_lib
from transfer_gen.adapters import scales
from transfer_gen.distill import loss
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import parallel

Runner = parallel.Runner


def runner(assembled: assembled_lib.Assembled) -> Runner:
  """Builds what takes the steps of a run: its loss, compiled for its devices.

  Raises:
    errors.UserError: If the devices cannot be divided as the config says.
  """
  run = assembled.run
  drops = bool(config_lib.dropouts(run.model)) or scales.has_dropout(run.adapters)
  return parallel.make_runner(
      run.parallel, assembled.specs, _rows(assembled), run.optim.accumulate,
      nll_fn=loss.objective(
          assembled.teacher, assembled.model, drops, assembled.beginning,
          run.objective),
      weigh=combined.weigher(run.objective, run.train.steps, run.distill),
      optimizer=assembled.optimizer)


# What divides a batch over devices and into parts must divide the batch of every
# length, and so this number.
def _rows(assembled: assembled_lib.Assembled) -> int:
  """Returns B, or what the batches of all lengths have as a common divisor."""
  train = assembled.run.train
  return math.gcd(*(train.rows(length) for length in assembled.data.lengths))
