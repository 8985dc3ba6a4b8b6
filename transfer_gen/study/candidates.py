"""What a search for a strategy tries, and how its budget of steps is divided."""

from collections.abc import Mapping
import dataclasses
import shlex
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.transfer import groups

COMMON = config_lib.Strategy(name="fine_tune")  # What all start as.
# Later rounds get more, because the order of candidates at an early step says little
# about the end.
_PERCENT = (20, 30, 50)  # Of the budget, by round.


def candidates(
    gradients: Mapping[str, float]) -> dict[str, list[config_lib.Strategy]]:
  """Returns what is tried, by family: all layers, slower below, parts alone.

  Args:
    gradients: Relative norm of the gradient of each group of `groups.by_layer`, from
      the top to the bottom.
  """
  make = config_lib.Strategy
  # `steepest` goes back to the order from top to bottom, in which groups are listed
  # everywhere.
  half = len(gradients) // 2
  steepest = sorted(gradients, key=gradients.__getitem__, reverse=True)
  steepest = [name for name in gradients if name in steepest[:max(1, half)]]
  return {
      # No candidate learns faster throughout than the run itself: a faster one looks
      # best early and overfits later. Factors above 1 stand only where most layers are
      # slower or frozen.
      "all": [make(name="fine_tune"), make(name="fine_tune", lr_mult=0.3)],
      "by_layer": [make(name="discriminative"),
                   make(name="discriminative", lr_mult=2.0)],
      "part": [make(name="surgical", learn=tuple(steepest)),
               make(name="fine_tune", frozen=half),
               make(name="feature_extraction", lr_mult=3.0), make(name="lora")]}


# Norms of 0 are enough to count candidates: gradients decide which layers the surgical
# one learns, and not how many candidates there are.
def of_model(
    model: config_lib.Decoder | config_lib.Recurrent
) -> dict[str, list[config_lib.Strategy]]:
  """Returns what is tried for a model whose gradients are not known yet."""
  layers = [group.name for group in groups.by_layer(model)]
  return candidates(dict.fromkeys(layers, 0.0))


def rungs(budget: int, counts: tuple[int, int, int]) -> list[tuple[int, int]]:
  """Returns the three rounds: (how many candidates train, up to which step).

  Args:
    budget: Steps of the whole search; 20%, 30% and 50% of it go into the rounds.
    counts: Number of candidates of each round.

  Raises:
    errors.UserError: If the first round would have no step.
  """
  result, step = [], 0
  for count, percent in zip(counts, _PERCENT):
    # Integers throughout, so that the rounds never take more than the budget. Each
    # round adds to the steps that a candidate has, because it resumes.
    step += budget * percent // 100 // count
    result.append((count, step))
  if result[0][1] < 1:
    least = -(-counts[0] * 100 // _PERCENT[0])
    raise errors.UserError(
        f"strategy.budget is {budget}, must be at least {least} steps: auto tries"
        f" {counts[0]} strategies, and a fifth of it is for the first round.")
  return result


def budget(run: config_lib.Run) -> int:
  """Returns the steps of the whole search."""
  return run.strategy.budget or run.train.steps


def rounds(
    run: config_lib.Run, families: Mapping[str, list[config_lib.Strategy]]
) -> list[tuple[int, int]]:
  """Returns the rounds of a search for a run, see `rungs`."""
  tried = {name(strategy) for some in families.values() for strategy in some}
  return rungs(budget(run), (len(tried), len(families), 2))


def overrides(strategy: config_lib.Strategy) -> list[str]:
  """Returns the flags that select this strategy, quoted for a shell."""
  return [shlex.quote(f"--config.strategy.{field.name}={getattr(strategy, field.name)}")
          for field in dataclasses.fields(strategy)
          if getattr(strategy, field.name) != field.default]


# Other fields are left out, because no two candidates differ in them alone.
def name(strategy: config_lib.Strategy) -> str:
  """Returns a name for the folder of a candidate."""
  parts = [strategy.name]
  parts += [f"frozen_{strategy.frozen}"] if strategy.frozen else []
  parts += [f"lr_x{strategy.lr_mult:g}"] if strategy.lr_mult else []
  return "_".join(parts)


def strategy(fields: Mapping[str, Any]) -> config_lib.Strategy:
  """Returns the strategy whose fields were stored as JSON."""
  values: dict[str, Any] = {**fields, "learn": tuple(fields["learn"])}
  return config_lib.Strategy(**values)
