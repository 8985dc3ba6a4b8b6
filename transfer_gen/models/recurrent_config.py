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
       "False behind an encoder; encoder_attention attends to what it read"),
      ("hidden_width", config.bridge != "none" or not (
          config.encoder and config.bidirectional) or all(
              width % 2 == 0 for width in config.widths),
       "even, for half of the state comes from each way; or set bridge"),
      ("bridge", config.bridge == "none" or config.encoder, "none without an encoder"),
      ("encoder_width", not config.encoder_width or config.bridge != "none",
       "0 without a bridge, which leads to states of another width"),
      ("tied", not config.tied or 0 < config.embed_width == _output_width(config),
       f"False, or the output must read embed_width ({config.embed_width}) features of"
       " one layer"),
      ("latent_width", config.encoder or not config.latent_width,
       "0 without an encoder, which gives the latent"),
      ("bridge", config.bridge == "none" or not config.latent_width,
       "none with a latent, which leads to the first states itself"),
      *_of_attention(config),
  ):
    if not holds:
      raise errors.UserError(
          f"model.{field} is {getattr(config, field)}, must be {what}.")


def constants(config: config_lib.Recurrent) -> dict[str, Any]:
  """Returns what a recurrent model computes beside its params and their sizes."""
  # Checkpoints store these and are compared by them, so `source_length` keeps the name
  # under which earlier versions stored it.
  found = {"source_length": config.encoder_length} | {
      name: getattr(config, name) for name in (
          "cell", "gate", "reset_after", "dense_activation", "forget_bias", "attention",
          "window", "pad_token", "bidirectional", "encoder")}
  # Only of models that have them: what a bridge or an attention is added to, lacks
  # their leaves, and no leaf of its own means something else.
  if config.bridge != "none":
    found["bridge"] = config.bridge
  if config.attends:
    found |= {"encoder_attention": config.encoder_attention,
              "attention_output": config.attention_output}
  # Products without a kernel of their own, so that no leaf could be divided when what
  # they contract grows: of states and what was read, and with a tied table. Sums of
  # states and what was read keep what they are only if both grow in the same way.
  together = config.encoder_attention in ("dot", "sum")
  undivided = ["hidden", "memory"] if together else []
  if config.tied:
    undivided = ["embed", "hidden", "mlp", *undivided]
  return found | ({"undivided": sorted(set(undivided))} if undivided else {})


def check_one_document(positions: Any) -> None:
  """Refuses rows of several documents, of which an encoder reads one input.

  Raises:
    errors.UserError: If there are positions.
  """
  if positions is not None:
    raise errors.UserError(
        "model.encoder is True, and rows hold several documents (positions), although"
        " the encoder reads one text for each row. Do not pack them.")


def check_encoder(encoder_inputs: Any) -> None:
  """Refuses to run an encoder on nothing.

  Raises:
    errors.UserError: If there are no inputs.
  """
  if encoder_inputs is None:
    raise errors.UserError(
        "model.encoder is True, and there are no encoder_inputs to read.")


def _of_attention(config):
  """Returns the fields of the attention over what an encoder read, as `check`."""
  kind, output = config.encoder_attention, config.attention_output
  adds = kind in ("additive", "concat")
  return (
      ("encoder_attention", config.encoder or kind == "none",
       "none without an encoder"),
      ("encoder_attention", kind == "none" or not config.latent_width,
       "none with a latent, beside which the decoder would read the text itself"),
      ("encoder_attention",
       kind not in ("dot", "sum") or config.memory_width == config.widths[-1],
       f"another one than {kind}, which needs equal widths: the encoder returns"
       f" {config.memory_width} features and the last layer {config.widths[-1]}"),
      ("attention_width", adds or not config.attention_width,
       "0, for only the scores additive and concat have hidden units"),
      ("attention_bias", config.attention_bias == "none" or adds,
       "none: but for additive and concat, a bias adds the same to every score"),
      ("attention_factor", kind in ("dot", "general") or not config.attention_factor,
       "False: only the scores dot and general have it, and the others have a weight"
       " for each hidden unit"),
      ("coverage", adds or not config.coverage,
       "False, for only the scores additive and concat can read it"),
      ("attention_output", output == "hidden" or kind != "none",
       "hidden, the default, without encoder_attention"),
      ("attention_output", output != "state" or kind == "additive",
       "another one than state: only an additive context reaches the state"),
      ("attention_output", output != "embed" or config.embed_width,
       "another one than embed without an embedding"),
      ("input_feeding", not config.input_feeding or (
          kind in ("dot", "general", "concat", "sum") and output == "hidden"),
       "False: it feeds the hidden output of dot, general, concat or sum"),
  )


def _output_width(config):
  """Returns how many features the output reads; 0 if they come in several parts."""
  parts = config.attention or (config.bidirectional and not config.encoder) or (
      config.attends and config.attention_output in ("context", "embed"))
  return config.dense_width or (0 if parts else config.widths[-1])
