"""Which beginning of the model is run once, if what it gives is stored."""

from collections.abc import Sequence

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.models import beginnings
from transfer_gen.transfer import resolve


def beginning(
    run: config_lib.Run, rows: Sequence[resolve.Row]
) -> beginnings.Beginning | None:
  """Returns the largest beginning of the model of which no leaf ever learns.

  In a chain these are all layers below the lowest one that learns; in a model with an
  encoder it is the encoder. If `run.features` is None, there is none.

  Raises:
    errors.UserError: If the run cannot have features, or if not even the smallest
      beginning is frozen; the message names the first leaf that learns.
  """
  if run.features is None:
    return None
  _check(run)
  # Groups that start late count as well: what is stored once must hold to the end.
  learning = [row for row in rows if row.unfreeze_step is not None]
  # Only outputs of layers are stored, so in a chain layer 0 must be frozen, too.
  least = beginnings.encoder(run.model) or beginnings.Layers(1)
  if early := [row for row in learning if least.holds(row.name)]:
    raise errors.UserError(_learns(run, least, early[0]))
  if isinstance(least, beginnings.Encoder):
    found: beginnings.Beginning = least
  else:
    layers = [layer for row in learning
              if (layer := names.layer_number(row.name)) is not None]
    found = beginnings.Layers(min(layers, default=run.model.num_layers))
  _check_adapters(run, [row.name for row in rows if found.holds(row.name)])
  return found


def _learns(
    run: config_lib.Run, least: beginnings.Beginning, row: resolve.Row) -> str:
  """Returns the message about a leaf that would have to be frozen."""
  model = run.model
  what, freeze = (
      ("the encoder is not frozen", "all that the encoder reads and is made of")
      if isinstance(least, beginnings.Encoder) else
      ("no beginning of the model is frozen", "the embedding and the first layers"))
  # Groups with `table_rows` let only some rows of a table learn. Strategies make such a
  # group for tokens that the source lacks, so the advice is another one.
  how = (f"Freeze {freeze} with unfreeze_step=None" if row.table is None else
         "These are rows of tokens that the source has not: take its tokenizer")
  if row.name == names.TOKEN_TABLE and getattr(model, "tied", False):
    how += ". The output is this table: model.tied=False gives it one of its own"
  if row.name == names.TOKEN_TABLE and model.encodes and not model.shared:
    how += (". Or give the encoder a table of its own, which may begin as a copy:"
            f" model.encoder_vocab_size={model.vocab_size}, and a rule"
            f" target='{names.ENCODER}{names.TOKEN_TABLE}',"
            f" source='{names.TOKEN_TABLE}'")
  if row.name.startswith(names.DECODER):
    how += (". The encoder runs the decoder's blocks: model.shared=False gives it its"
            " own")
  return (f"features: {what}: {row.name} learns from step {row.unfreeze_step} (group"
          f" {row.group!r}). {how}. Or set features=None.")


# Dropout of an adapter acts in training even where its leaves are frozen.
def _check_adapters(run: config_lib.Run, held: Sequence[str]) -> None:
  """Refuses adapters that drop anything within the beginning, whose leaves are held."""
  for adapter in run.adapters:
    if not isinstance(adapter, config_lib.LoRA) or not adapter.dropout:
      continue
    # It does not act on what cells read, whose leaves begin with the kernel's kind.
    leaf = next((name for name in held
                 if name.split("/")[-1].startswith(f"{adapter.name}_a")), None)
    if leaf is not None:
      raise errors.UserError(
          f"features: {leaf} is frozen, and the dropout of its adapter is"
          f" {adapter.dropout}: what is stored once cannot be dropped anew in each"
          " epoch. Set it to 0, leave these kernels out of the adapter's params, or set"
          " features=None.")


def _check(run: config_lib.Run) -> None:
  features, model = run.features, run.model
  assert features is not None
  drawn = isinstance(model, config_lib.Sketch)
  # Of drawings it acts on the decoder's states alone.
  rates = [] if drawn else [f"model.{name} is {rate}" for name, rate in (
      config_lib.dropouts(model).items())]
  corrupt, noise = run.data.corrupt, run.data.corrupt.noise
  chain = model.encodes or not any(getattr(model, field, False) for field in (
      "window", "attention", "bidirectional"))
  for wrong, why in (
      (rates,
       f"features: {' and '.join(rates)}, and what is stored once cannot be dropped"
       " anew in each epoch. Set it to 0, or features=None"),
      (run.data.corrupt.word_dropout > 0,
       "features: data.corrupt.word_dropout changes what the model reads in each epoch,"
       " and what is stored once stays. Set it to 0, or features=None"),
      (noise,
       f"features: data.corrupt.noise is {noise!r}, which makes what the encoder reads"
       " anew in each epoch, and what is stored once stays. Leave it out, or set"
       " features=None"),
      (drawn and not model.latent_width,
       "features: model.latent_width is 0: a decoder of drawings alone has no encoder"
       " whose output could be stored. Set features=None"),
      (corrupt.stretch or corrupt.drop_points,
       f"features: data.corrupt.stretch is {corrupt.stretch} and drop_points"
       f" {corrupt.drop_points}, which change the drawings that the encoder reads in"
       " each epoch, and what is stored once stays. Set both to 0, or features=None"),
      (isinstance(model, config_lib.Recurrent) and not chain,
       "features: the model has a window, attention over its layers or cells that"
       " read backwards, and only a chain of layers has a beginning. Set"
       " features=None")):
    if wrong:
      raise errors.UserError(f"{why}.")
