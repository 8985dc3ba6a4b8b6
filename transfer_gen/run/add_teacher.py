"""A teacher is opened, and projections to its widths join the model."""

from transfer_gen.distill import open_teacher
from transfer_gen.distill import student
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import open_sources
from transfer_gen.run import strategies


def add(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Opens the teacher that the config names, if it names one; reads no array.

  Raises:
    errors.UserError: If the teacher and the model do not go together.
  """
  distill = assembled.run.distill
  if distill is None:
    return assembled
  # Without a teacher of its own, a run learns from its source.
  given = distill.teacher if distill.teacher.path else (
      assembled.run.source or distill.teacher)
  teacher = open_teacher.build(
      distill, open_sources.one("distill.teacher", given),
      assembled.run.model, assembled.inputs.data)
  module = student.extend(assembled.model, teacher)
  run = assembled.run
  if run.strategy.name and module is not assembled.model:
    # No source has projections, and a strategy's groups know nothing of them.
    run = strategies.with_drawn(
        run, "projections", strategies.PROJECTIONS, "to the teacher's widths")
    assembled = assembled.replace(run=run, plan=run.transfer)
  return assembled.replace(model=module, teacher=teacher)
