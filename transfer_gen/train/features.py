"""Which layer training starts from, if the hidden states before it are stored."""

from collections.abc import Sequence

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.transfer import resolve


def first_layer(run: config_lib.Run, rows: Sequence[resolve.Row]) -> int:
  """Returns the number of the layer that training starts from.

  It is the lowest layer of which a leaf ever learns; the output of the layers below it
  is stored. If `run.features` is None, it is 0.

  Raises:
    errors.UserError: If the run cannot have features, or if no layer has only frozen
      leaves below it; the message names the first leaf that learns.
  """
  if run.features is None:
    return 0
  _check(run)
  # Groups that start late count as well: what is stored once must hold to the end.
  learning = [row for row in rows if row.unfreeze_step is not None]
  layers = [layer for row in learning
            if (layer := names.layer_number(row.name)) is not None]
  # Leaves outside the layers, such as the embedding, are early unless they stand after
  # the last layer. Only outputs of layers are stored, so layer 0 must be frozen too.
  early = [row for row in learning
           if names.layer_number(row.name) in (None, 0)
           and row.name.split("/")[0] not in names.AFTER_LAYERS]
  if early:
    row = early[0]
    # Groups with `table_rows` let only some rows of a table learn. Strategies make
    # such a group for tokens that the source lacks, so the advice is another one.
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
  rates = [f"model.{name} is {rate}"
           for name, rate in config_lib.dropouts(model).items()]
  chain = not any(getattr(model, field, False) for field in (
      "window", "attention", "bidirectional"))
  for wrong, why in (
      (rates,
       f"features: {' and '.join(rates)}, and what is stored once cannot be dropped"
       " anew in each epoch. Set it to 0, or features=None"),
      (run.data.corrupt.word_dropout > 0,
       "features: data.corrupt.word_dropout changes what the model reads in each epoch,"
       " and what is stored once stays. Set it to 0, or features=None"),
      (model.encodes,
       "features: the model has an encoder, and only a chain of layers has a"
       " beginning. Set features=None"),
      (isinstance(model, config_lib.Recurrent) and not chain,
       "features: the model has a window, attention over its layers or cells that"
       " read backwards, and only a chain of layers has a beginning. Set"
       " features=None")):
    if wrong:
      raise errors.UserError(f"{why}.")
