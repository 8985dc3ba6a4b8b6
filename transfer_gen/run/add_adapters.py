"""Adapters stand beside the kernels of a model."""

from transfer_gen.adapters import scales
from transfer_gen.adapters import wrap as wrap_lib
from transfer_gen.run import assembled as assembled_lib


def wrap(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Puts the adapters of the run around the module."""
  return assembled.replace(model=wrap_lib.wrap(assembled.model, assembled.run.adapters))


def check_scales(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Compares the scales of low-rank products with those of the sources.

  Raises:
    errors.UserError: If a leaf would mean something else than in its source.
  """
  scales.check(
      assembled.rows, scales.scales(assembled.run.adapters, tuple(assembled.specs)),
      {name: source.scales for name, source in assembled.inputs.sources.items()})
  return assembled
