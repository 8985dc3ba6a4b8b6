"""From what a run reads to all that it trains with, decided before an array is read."""

from collections.abc import Callable

from etils import epath

from transfer_gen.run import add_adapters
from transfer_gen.run import add_features
from transfer_gen.run import add_objective
from transfer_gen.run import add_optimizer
from transfer_gen.run import add_plan
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import reader

Assembled = assembled_lib.Assembled


# What contributes to a run, in order. A step before `resolve` may change the config,
# the plan and the model; a step after it sees the rows.
# Adapters and projections are leaves too, so they join the model before it. Features
# and the optimizer depend on what learns, which only the rows say.
STEPS: tuple[Callable[[Assembled], Assembled], ...] = (
    add_plan.add, add_adapters.wrap, add_objective.add, add_plan.resolve,
    add_adapters.check_scales, add_features.find_beginning, add_optimizer.build)


def build(run: reader.Run, workdir: epath.PathLike) -> Assembled:
  """Reads the inputs of one run and assembles it; writes nothing.

  Args:
    run: Config of the run.
    workdir: If a tokenizer was saved here, it is used again.

  Raises:
    errors.UserError: If something in the config does not exist or does not fit.
  """
  return assemble(reader.Reader().read(run, workdir))


def assemble(inputs: assembled_lib.Inputs) -> Assembled:
  """Builds the model, resolves the plan and builds the optimizer; reads no array.

  Raises:
    errors.UserError: If something in the config does not fit what was read.
  """
  assembled = add_plan.begin(inputs)
  for step in STEPS:
    assembled = step(assembled)
  return assembled
