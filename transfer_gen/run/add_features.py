"""Stored features: training starts behind a beginning of the model that is frozen."""

from transfer_gen import errors
from transfer_gen.models import beginnings
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import features


def find_beginning(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Finds the part of the model whose output is stored; None if none is asked for.

  Raises:
    errors.UserError: If the run cannot have stored features, or if its teacher matches
      a layer that would not run.
  """
  found, teacher = features.beginning(assembled.run, assembled.rows), assembled.teacher
  # An encoder's layers are never matched. All others must run, or their outputs would
  # be missing from what the loss looks up.
  if teacher is not None and isinstance(found, beginnings.Layers):
    early = [layer for layer, _ in (*teacher.hidden, *teacher.related)
             if layer < found.count]
    if early:
      raise errors.UserError(
          f"distill: layer {early[0]} is matched, and features are stored of all"
          f" before layer {found.count}, which do not learn. Set distill.layers to"
          " later ones.")
  return assembled.replace(beginning=found)
