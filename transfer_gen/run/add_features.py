"""Stored features: training starts from the lowest layer that ever learns."""

from transfer_gen.distill import loss
from transfer_gen.run import draft as draft_lib
from transfer_gen.train import features


def find_first_layer(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Finds the layer that training starts from; 0 if features are not asked for.

  Raises:
    errors.UserError: If the run cannot have stored features.
  """
  first = features.first(draft.run, draft.rows)
  loss.check_first(draft.teacher, first)
  return draft.replace(first_layer=first)
