"""Stored features: training starts from the lowest layer that ever learns."""

from transfer_gen.distill import student
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import features


def find_first_layer(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Finds the layer that training starts from; 0 if features are not asked for.

  Raises:
    errors.UserError: If the run cannot have stored features.
  """
  first = features.first_layer(assembled.run, assembled.rows)
  student.check_first(assembled.teacher, first)
  return assembled.replace(first_layer=first)
