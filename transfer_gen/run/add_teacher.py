"""A teacher is opened, and projections to its widths join the model."""

from transfer_gen import errors
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
  source = open_sources.one("distill.teacher", given)
  _check_direction(assembled.run, distill, source)
  teacher = open_teacher.build(
      distill, source, assembled.run.model, assembled.inputs.data)
  module = student.extend(assembled.model, teacher)
  run = assembled.run
  if run.strategy.name and module is not assembled.model:
    # No source has projections, and a strategy's groups know nothing of them.
    run = strategies.with_drawn(
        run, "projections", strategies.PROJECTIONS, "to the teacher's widths")
    assembled = assembled.replace(run=run, plan=run.transfer)
  return assembled.replace(model=module, teacher=teacher)


def _check_direction(run, distill, source):
  """Refuses a teacher that does not read rows in the direction of the student."""
  if source.reverse is not None and source.reverse != run.data.reverse:
    raise errors.UserError(
        f"distill: {source.path} learned with data.reverse={source.reverse}, and the"
        f" run has data.reverse={run.data.reverse}. Take a teacher that reads texts in"
        " the same direction.")
  if run.data.reverse and distill.vocabularies != open_teacher.SAME:
    raise errors.UserError(
        f"distill.vocabularies={distill.vocabularies!r} aligns texts that run from left"
        " to right, and data.reverse is True. Give the student the teacher's tokenizer"
        " (tokenizer.kind='file').")
