"""The plan of a run: the user's own, or the one that a strategy writes."""

import dataclasses
import inspect

from transfer_gen import sources as sources_lib
from transfer_gen.adapters import wrap
from transfer_gen.models import registry
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import strategies
from transfer_gen.transfer import plan as plan_lib


def begin(inputs: assembled_lib.Inputs) -> assembled_lib.Assembled:
  """Builds the model of a run, without a plan yet."""
  notes = filter(None, map(sources_lib.dtypes_note, inputs.sources.values()))
  return assembled_lib.Assembled(
      inputs=dataclasses.replace(inputs, notes=(*inputs.notes, *notes)),
      run=inputs.run, model=registry.build(inputs.run.model))


def add(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Makes the plan; a strategy also writes groups, adapters and teacher into the run.

  Raises:
    errors.UserError: If the strategy asks for what the model does not have.
  """
  run, plan = assembled.run, _written(assembled.inputs)
  source = assembled.sources.get("")
  # Rows of the source's own vocabulary are copied: they need no matching, and tokens
  # that stand for the same text, as some vocabularies have them, would be confused.
  matches = source is not None and source.tokenizer is not None and (
      run.tokenizer.kind != "source")
  if not run.strategy.name:
    if plan is None and source is not None:
      plan = strategies.by_name(run, matches)
      assembled = assembled.with_note(
          "No plan is given: each leaf comes from the source's leaf of its name"
          + (",\nand rows of the vocabulary by matching tokens." if matches else "."))
    return assembled.replace(plan=_allowing(
        run, plan_lib.SCRATCH if plan is None else plan))
  assembled = assembled.replace(plan=_allowing(
      run, strategies.base(run, plan, matches)))
  # Which rows of a table are new decides what learns, so the plan is resolved before.
  rows = assembled.resolve(registry.specs(wrap.wrap(assembled.model, run.adapters)))
  run = strategies.write(run, assembled.plan, rows)
  return assembled.replace(run=run, plan=run.transfer)


def resolve(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Resolves the plan against the specs of the model as it will be trained.

  Raises:
    errors.UserError: With every misfit.
  """
  specs = registry.specs(assembled.model)
  return assembled.replace(specs=specs, rows=assembled.resolve(specs))


def _allowing(
    run: strategies.Run, plan: plan_lib.TransferPlan) -> plan_lib.TransferPlan:
  """Allows the differences from the source's model that the config itself asks for."""
  return dataclasses.replace(plan, may_differ=tuple(dict.fromkeys(
      (*plan.may_differ, *run.model_changes))))


def _written(inputs: assembled_lib.Inputs) -> plan_lib.TransferPlan | None:
  """The plan as the user wrote it; None if the config has none."""
  run, plan = inputs.run, inputs.run.transfer
  if not callable(plan):
    return plan
  # A function of two arguments also gets the vocabularies, which mixtures of rows need;
  # the target's tokenizer is trained by now.
  if len(inspect.signature(plan).parameters) > 1:
    return plan(run, inputs.vocabularies())
  return plan(run)
