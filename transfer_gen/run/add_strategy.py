"""A strategy that is named in the config writes what learns, and how."""

from transfer_gen.adapters import wrap
from transfer_gen.models import registry
from transfer_gen.run import draft as draft_lib
from transfer_gen.run import strategies


def write(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Writes the groups, adapters and teacher of the strategy into the run.

  Raises:
    errors.UserError: If the strategy asks for what the model does not have.
  """
  if not draft.run.strategy.name:
    return draft
  # Which rows of a table are new decides what learns, so the plan is resolved before.
  rows = draft.resolve(registry.specs(wrap.wrap(draft.module, draft.run.adapters)))
  run = strategies.write(draft.run, draft.plan, rows)
  return draft.replace(run=run, plan=run.transfer)
