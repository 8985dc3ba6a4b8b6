"""Which layer training starts from, if the hidden states before it are stored."""

from collections.abc import Sequence

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.transfer import resolve


def first_layer(run: config_lib.Run, rows: Sequence[resolve.Row]) -> int:
  """The layer that training starts from; 0: features are not asked for.

  It is the lowest one of which a leaf ever learns: all before it are stored.

  Raises:
    errors.UserError: If the run cannot have features, or nothing before a layer is
      frozen; names the first leaf that learns.
  """
  if run.features is None:
    return 0
  _check(run)
  learning = [row for row in rows if row.unfreeze_step is not None]
  layers = [layer for row in learning
            if (layer := names.layer_number(row.name)) is not None]
  early = [row for row in learning
           if names.layer_number(row.name) in (None, 0)
           and row.name.split("/")[0] not in names.AFTER_LAYERS]
  if early:
    row = early[0]
    how = ("Freeze the embedding and the first layers with unfreeze_step=None"
           if row.table is None else
           "These are rows of tokens that the source has not: take its tokenizer")
    if row.name == names.TOKEN_TABLE and getattr(run.model, "tied", False):
      how += ". The output is this table: model.tied=False gives it one of its own"
    raise errors.UserError(
        f"features: no beginning of the model is frozen: {row.name} learns from step"
        f" {row.unfreeze_step} (group {row.group!r}). {how}. Or set features=None.")
  return min(layers, default=run.model.num_layers)


def _check(run: config_lib.Run) -> None:
  features, model = run.features, run.model
  assert features is not None
  chain = not any(getattr(model, field, False) for field in (
      "window", "attention", "bidirectional"))
  for wrong, why in (
      (features.dtype not in ("float32", "bfloat16"),
       f"features.dtype is {features.dtype!r}, must be 'float32' or 'bfloat16'"),
      (not 0 <= features.check <= 1,
       f"features.check is {features.check}, must be in [0, 1]"),
      (model.dropout > 0,
       f"features: model.dropout is {model.dropout}, and what is stored once cannot"
       " be dropped anew in each epoch. Set it to 0, or features=None"),
      (model.encodes,
       "features: the model has an encoder, and only a chain of layers has a"
       " beginning. Set features=None"),
      (isinstance(model, config_lib.Recurrent) and not chain,
       "features: the model has a window, attention over its layers or cells that"
       " read backwards, and only a chain of layers has a beginning. Set"
       " features=None")):
    if wrong:
      raise errors.UserError(f"{why}.")
