"""The optimizer of the leaves that learn, and moments that come from a source."""

import jax

from transfer_gen.models import fused_attention
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import loss_scale
from transfer_gen.train import moments
from transfer_gen.train import optim


def build(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Builds the optimizer and marks the rows whose moments come from a source.

  Raises:
    errors.UserError: If the config of the optimizer does not fit, or moments are asked
      for and no group can take them.
  """
  run = assembled.run
  optimizer = optim.build(
      run.optim, assembled.plan.groups, assembled.rows, run.train.steps)
  wanted = frozenset(
      name for name, source in run.all_sources().items() if source.moments)
  # Not a part of the plan: it depends on the slots that the optimizer has for a group.
  rows = moments.mark(assembled.rows, optimizer, assembled.inputs.sources, wanted)
  return _with_attention(_noted(assembled.replace(optimizer=optimizer, rows=rows)))


def _with_attention(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Adds a note on what computes the attention, where it is chosen by the devices."""
  model = assembled.run.model
  if getattr(model, "attention_implementation", "einsum") != "fused":
    return assembled
  length = max(assembled.data.lengths)
  why = fused_attention.why_xla(
      jax.default_backend(), model.dtype, model.head_size, (length, length))
  return assembled.with_note("model.attention_implementation=fused: attention by " + (
      f"XLA, since {why}" if why else "cuDNN"))


def _noted(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Adds a note on the dtypes, where they are not the same everywhere."""
  dtype = assembled.run.model.dtype
  if dtype == "float32":
    return assembled
  scaled = (f", and a loss scale, which begins at {loss_scale.START:.0f}"
            if loss_scale.needed(dtype) else "")
  return assembled.with_note(
      f"model.dtype={dtype}: layers compute in it, with params, gradients, optimizer"
      f" state, losses and statistics of norms in float32{scaled}")
