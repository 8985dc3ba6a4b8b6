"""How the steps of a run are taken on its devices."""

import collections
import dataclasses
import math

from transfer_gen import config as config_lib
from transfer_gen.adapters import scales
from transfer_gen.distill import loss
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import parallel

Runner = parallel.Runner
_KEPT = 8  # Runners, each with its compiled programs: a study has several runs.
# By what a step depends on, the one that was used last at the end.
_RUNNERS: collections.OrderedDict[str, Runner] = collections.OrderedDict()


def runner(assembled: assembled_lib.Assembled) -> Runner:
  """Returns what takes the steps of a run: its loss, compiled for its devices.

  Runs that differ in nothing but seed and learning rate, as those of a study, share it,
  so that a step is traced and compiled once for all of them.

  Raises:
    errors.UserError: If the devices cannot be divided as the config says.
  """
  # What a teacher or an anchor holds may come from checkpoints.
  if assembled.teacher is not None or assembled.optimizer.anchors:
    return _make(assembled)
  key = _depends_on(assembled)
  found = _RUNNERS.pop(key, None)
  _RUNNERS[key] = found = _make(assembled) if found is None else found
  while len(_RUNNERS) > _KEPT:
    _RUNNERS.popitem(last=False)
  return found


def _depends_on(assembled: assembled_lib.Assembled) -> str:
  """Returns all that a step depends on beside its arguments."""
  run, optimizer = assembled.run, assembled.optimizer
  alike = dataclasses.replace(run, seed=0).with_values("optim", lr=0.0)
  tables = {name: (table.dim, table.index.tolist())
            for name, table in optimizer.tables.items()}
  return repr((
      alike, assembled.model, assembled.beginning, sorted(assembled.specs.items()),
      optimizer.members, optimizer.starts, tables, assembled.plan.groups,
      _rows(assembled)))


def _make(assembled: assembled_lib.Assembled) -> Runner:
  run = assembled.run
  drops = bool(config_lib.dropouts(run.model)) or scales.has_dropout(run.adapters)
  return parallel.make_runner(
      run.parallel, assembled.specs, _rows(assembled), run.optim.accumulate,
      nll_fn=loss.objective(
          assembled.teacher, assembled.model, drops, assembled.beginning,
          run.objective),
      weigh=combined.weigher(run.objective, run.train.steps, run.distill),
      optimizer=assembled.optimizer, ema=run.train.ema)


# What divides a batch over devices and into parts must divide the batch of every
# length, and so this number.
def _rows(assembled: assembled_lib.Assembled) -> int:
  """Returns B, or what the batches of all lengths have as a common divisor."""
  train = assembled.run.train
  return math.gcd(*(train.rows(length) for length in assembled.data.lengths))
