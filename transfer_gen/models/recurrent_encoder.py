"""The encoder of a recurrent model, the stacks of both sides, and what goes together.

Axes: B batch, S position in what the encoder reads, U hidden width.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import recurrent_layers

Parts, Input, Affine = (
    recurrent_layers.Parts, recurrent_layers.Input, recurrent_layers.Affine)
BACKWARD = recurrent_layers.BACKWARD


# Each field by itself was checked by `registry.build`. A window and
# an encoder exclude each other, because every window is read from an empty state, which
# leaves no room for what the encoder found.
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
      ("latent_width", config.encoder or not config.latent_width,
       "0 without an encoder, which gives the latent"),
      ("bridge", config.bridge == "none" or not config.latent_width,
       "none with a latent, which leads to the first states itself"),
      *_of_attention(config),
  ):
    if not holds:
      raise errors.UserError(
          f"model.{field} is {getattr(config, field)}, must be {what}.")


def _of_attention(config):
  """Returns the fields of the attention over what an encoder read, as `check`."""
  kind, output = config.encoder_attention, config.attention_output
  adds = kind in ("additive", "concat")
  return (
      ("encoder_attention", config.encoder or kind == "none",
       "none without an encoder"),
      ("encoder_attention", kind == "none" or not config.latent_width,
       "none with a latent, beside which the decoder would read the text itself"),
      ("encoder_attention", kind != "dot" or config.memory_width == config.widths[-1],
       f"another one than dot, whose product needs equal widths: the encoder returns"
       f" {config.memory_width} features and the last layer {config.widths[-1]}"),
      ("attention_width", adds or not config.attention_width,
       "0, for only the scores additive and concat have hidden units"),
      ("attention_bias", config.attention_bias == "none" or adds,
       "none: but for additive and concat, a bias adds the same to every score"),
      ("coverage", adds or not config.coverage,
       "False, for only the scores additive and concat can read it"),
      ("attention_output", output == "hidden" or kind != "none",
       "hidden, the default, without encoder_attention"),
      ("attention_output", output != "state" or kind == "additive",
       "another one than state: only an additive context reaches the state"),
      ("attention_output", output != "embed" or config.embed_width,
       "another one than embed without an embedding"),
      ("input_feeding", not config.input_feeding or (
          kind in ("dot", "general", "concat") and output == "hidden"),
       "False: it feeds the hidden output of dot, general or concat"),
  )


def check_one_document(positions: jax.Array | None) -> None:
  """Refuses rows of several documents, of which an encoder reads one input.

  Raises:
    errors.UserError: If there are positions.
  """
  if positions is not None:
    raise errors.UserError(
        "model.encoder is True, and rows hold several documents (positions), although"
        " the encoder reads one text for each row. Do not pack them.")


def empty(config: config_lib.Recurrent, batch: int) -> list[cells.Carry]:
  """Returns an empty carry for each layer, dtype[B, U] each."""
  dtype = layers.computation_dtype(config.dtype)
  states = cells.KINDS[config.cell].states
  return [(jnp.zeros((batch, width), dtype),) * states for width in config.widths]


class Encoder(nn.Module):
  """Maps encoder inputs to the states after them, and to the outputs at each place.

  Attributes:
    config: Of the model.

  Params: embed (if it has a width), layer_0 ....
  """
  config: config_lib.Recurrent

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    size = config.encoder_tokens
    if config.embed_width:
      self.embed = table(config, size)
    self.blocks = stack(config, size, config.encoder_widths, both=config.bidirectional)

  def __call__(
      self, encoder_inputs: jax.Array | None, counts: jax.Array | None, train: bool
  ) -> tuple[list[cells.Carry], Parts, jax.Array]:
    """Reads encoder inputs.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      counts: i32[B]: how many of a row's are no padding; up to `encoder_length`,
        `pad_token` is read in its place. If None, S.
      train: Whether dropout acts.

    Returns:
      A layer, its carry, dtype[B, U] each; the outputs of the last layer, dtype[S, B,
      U] each; and bool[S, B], which of them are no padding.

    Raises:
      errors.UserError: If there are no encoder inputs.
    """
    config = self.config
    encoder_inputs, counts = counted(encoder_inputs, counts)
    # Some published encoders were trained without a mask and have read their padding.
    # Up to `encoder_length` it is read here too, and beyond that never.
    more = max(0, config.encoder_length - encoder_inputs.shape[1])
    tokens = jnp.pad(encoder_inputs, ((0, 0), (0, more))).T  # [S, B]
    steps = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    tokens = jnp.where(steps < counts[None], tokens, config.pad_token)
    valid = steps < jnp.maximum(counts, config.encoder_length)[None]
    x, carries = {"": self.embed(tokens) if config.embed_width else tokens}, []
    for block in self.blocks:
      carry, x = block.summarize(x, valid, train)
      carries.append(carry)
    return carries, x, valid


def counted(
    encoder_inputs: jax.Array | None, counts: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Returns both arguments of an `Encoder`, with counts where there were none.

  Raises:
    errors.UserError: If there are no encoder inputs.
  """
  if encoder_inputs is None:
    raise errors.UserError(
        "model.encoder is True, and there are no encoder_inputs to read.")
  if counts is None:
    counts = jnp.full(encoder_inputs.shape[:1], encoder_inputs.shape[1], jnp.int32)
  return encoder_inputs, counts


def table(config: config_lib.Recurrent, size: int) -> layers.Embed:
  """Returns the embedding of a side that has some tokens."""
  return layers.Embed(
      size, config.embed_width, dtype=layers.computation_dtype(config.dtype))


def stack(
    config: config_lib.Recurrent, vocab_size: int, widths: tuple[int, ...],
    both: bool = False, fed: tuple[recurrent_layers.Input, ...] = (),
    bridged: bool = False,
) -> list[recurrent_layers.Layer]:
  """Returns layers, each of which reads the outputs of the one below it.

  Args:
    config: The model's config.
    vocab_size: Number of tokens, which the first layer reads if nothing embeds them.
    widths: Number of units of each direction of each layer.
    both: Whether each layer also reads backwards.
    fed: What the first layer reads beside the token.
    bridged: Whether a bridge leads to the first states.
  """
  inputs = (recurrent_layers.Input("", "embed", config.embed_width),)
  if not config.embed_width:
    inputs = (recurrent_layers.Input("", "vocab", vocab_size),)
  inputs += fed
  blocks = []
  for i, width in enumerate(widths):
    blocks.append(recurrent_layers.Layer(
        config, inputs, width, both, name=names.layer(i),
        bridged=config.encoder_widths[i] * config.encoder_ways if bridged else 0))
    inputs = blocks[-1].outputs()
  return blocks
