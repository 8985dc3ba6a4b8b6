"""Which fields of a recurrent model go together, and what it computes by them."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors


# Each field by itself was checked by `registry.build`. A window and an encoder exclude
# each other, because every window is read from an empty state, which leaves no room for
# what the encoder found.
def check(config: config_lib.Recurrent) -> None:
  """Refuses configs whose fields do not go together.

  Raises:
    errors.UserError: One message: which field, its value, what it must be.
  """
  widths, alone = config.hidden_widths, config.bidirectional and not config.encoder
  for field, holds, what in (
      ("vocab_size", config.vocab_size > 0, "positive"),
      ("embed_width", config.embed_width or not config.attention,
       "positive, for the attention reads it"),
      ("hidden_widths", len(widths) in (0, config.num_layers),
       "one positive width a layer, or ()"),
      ("window", config.window or not alone,
       "positive, for who reads both ways sees what is to be predicted"),
      ("window", not (config.window and config.encoder), "0 behind an encoder"),
      ("attention", not (config.attention and config.encoder),
       "False behind an encoder"),
      ("tied", not config.tied or 0 < config.embed_width == _output_width(config),
       f"False, or the output must read embed_width ({config.embed_width}) features"),
      ("hidden_width", not (config.encoder and config.bidirectional) or all(
          width % 2 == 0 for width in config.widths),
       "even, for half of the state comes from each way"),
  ):
    if not holds:
      raise errors.UserError(
          f"model.{field} is {getattr(config, field)}, must be {what}.")


def constants(config: config_lib.Recurrent) -> dict[str, Any]:
  """Returns what a recurrent model computes beside its params and their sizes."""
  # The product with a tied table contracts what the last layer returns, and no leaf
  # could be divided when that grows.
  undivided = {"undivided": ["embed", "hidden", "mlp"]} if config.tied else {}
  # Checkpoints store these and are compared by them, so `source_length` keeps the name
  # under which earlier versions stored it.
  return undivided | {"source_length": config.encoder_length} | {
      name: getattr(config, name) for name in (
          "cell", "gate", "reset_after", "dense_activation", "forget_bias", "attention",
          "window", "pad_token", "bidirectional", "encoder")}


def check_encoder(encoder_inputs: Any) -> None:
  """Refuses to run an encoder on nothing.

  Raises:
    errors.UserError: If there are no inputs.
  """
  if encoder_inputs is None:
    raise errors.UserError(
        "model.encoder is True, and there are no encoder_inputs to read.")


def _output_width(config):
  """Returns how many features the output reads; 0 if they come in several parts."""
  parts = config.attention or (config.bidirectional and not config.encoder)
  return config.dense_width or (0 if parts else config.widths[-1])
