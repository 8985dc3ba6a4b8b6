"""Adapters stand beside the kernels of a model."""

from transfer_gen.adapters import wrap as wrap_lib
from transfer_gen.run import draft as draft_lib


def wrap(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Puts the adapters of the run around the module."""
  return draft.replace(module=wrap_lib.wrap(draft.module, draft.run.adapters))


def check_scales(draft: draft_lib.Draft) -> draft_lib.Draft:
  """Compares the scales of low-rank products with those of the sources.

  Raises:
    errors.UserError: If a leaf would mean something else than in its source.
  """
  wrap_lib.check_scales(
      draft.rows, wrap_lib.scales(draft.run.adapters, tuple(draft.specs)),
      {name: source.scales for name, source in draft.inputs.sources.items()})
  return draft
