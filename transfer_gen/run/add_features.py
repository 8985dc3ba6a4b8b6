"""Stored features: training starts behind a beginning of the model that is frozen."""

from transfer_gen import errors
from transfer_gen.models import beginnings
from transfer_gen.models import registry
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import features


def find_beginning(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Finds the part of the model whose output is stored; None if none is asked for.

  Raises:
    errors.UserError: If the run cannot have stored features, or if its teacher matches
      a layer that would not run.
  """
  found, teacher = features.beginning(assembled.run, assembled.rows), assembled.teacher
  # An encoder of texts has no layers that are matched, and that of drawings is layer 0.
  # What is matched must run, or its output would be missing where the loss looks it up.
  if teacher is not None and found is not None:
    count = (found.count if isinstance(found, beginnings.Layers)
             else int(registry.is_drawn(assembled.run.model)))
    early = [layer for layer, _ in (*teacher.hidden, *teacher.related)
             if layer < count]
    if early:
      raise errors.UserError(
          f"distill: layer {early[0]} is matched, and features are stored of all"
          f" before layer {count}, which do not learn. Set distill.layers to later"
          " ones.")
  return assembled.replace(beginning=found)
