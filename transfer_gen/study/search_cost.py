"""What a search for a strategy costs, beside the run that it chooses."""

from collections.abc import Mapping
import dataclasses

from etils import epath

from transfer_gen.run import assemble
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import records
from transfer_gen.study import cost as cost_lib
from transfer_gen.study import gradients


def flops(
    inputs: inputs_lib.Inputs, strategy: inputs_lib.Strategy,
    losses: Mapping[str, float]) -> float:
  """Returns the FLOPs of a candidate's run up to the last step that it reached."""
  run = dataclasses.replace(inputs.run, strategy=strategy)
  return cost_lib.of_run(
      assemble.assemble(inputs.with_run(run)), max(map(int, losses)))


def flops_beside(common: assemble.Assembled, validations: int) -> float:
  """Returns the FLOPs of a search beside the steps of its candidates.

  These are gradients of all layers, and validations where candidates stopped.

  Args:
    common: What all candidates start as, in which all learns.
    validations: How often a candidate stopped.
  """
  return (cost_lib.of_run(common, gradients.BATCHES)
          + validations * cost_lib.of_validation(common))


def train_seconds(workdir: epath.Path) -> float:
  """Returns the seconds of the steps of a training, without its validations."""
  return sum(line["seconds"] for line in records.read_metrics(workdir)
             if line["split"] == "train")
