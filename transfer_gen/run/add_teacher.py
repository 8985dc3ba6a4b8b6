"""A teacher is opened, and projections to its widths join the model."""

from transfer_gen.distill import loss
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.run import draft as draft_lib
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import strategies


def add(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Opens the teacher that the config names, if it names one; reads no array.

  Raises:
    errors.UserError: If the teacher and the model do not go together.
  """
  distill = draft.run.distill
  if distill is None:
    return draft
  teacher = teacher_lib.build(
      distill, inputs_lib.open_source("distill.teacher", distill.teacher),
      draft.run.model, draft.inputs.data)
  module = loss.student(draft.module, teacher)
  run = draft.run
  if run.strategy.name and module is not draft.module:
    # No source has projections, and a strategy's groups know nothing of them.
    run = strategies.with_drawn(
        run, "projections", strategies.PROJECTIONS, "to the teacher's widths")
    draft = draft.replace(run=run, plan=run.transfer)
  return draft.replace(module=module, teacher=teacher)
