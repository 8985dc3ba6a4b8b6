"""The optimizer of the leaves that learn, and moments that go on from a source."""

from transfer_gen.run import draft as draft_lib
from transfer_gen.train import moments
from transfer_gen.train import optim


def build(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Builds the optimizer and marks the rows whose moments come from a source.

  Raises:
    errors.UserError: If the config of the optimizer does not fit, or moments are asked
      for and no group can take them.
  """
  run = draft.run
  optimizer = optim.build(run.optim, draft.plan.groups, draft.rows, run.train.steps)
  wanted = frozenset(
      name for name, source in run.all_sources().items() if source.moments)
  rows = moments.mark(draft.rows, optimizer, draft.inputs.sources, wanted)
  return draft.replace(optimizer=optimizer, rows=rows)
