"""The encoder of a recurrent model, and the stacks, tables and outputs of both sides.

Axes: B batch, S position in what the encoder reads, U hidden width.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import recurrent_config
from transfer_gen.models import recurrent_layers

Parts, Input, Affine = (
    recurrent_layers.Parts, recurrent_layers.Input, recurrent_layers.Affine)
BACKWARD = recurrent_layers.BACKWARD
TOP = "top"
# Passed on, so that a model takes all that both sides share from one module.
check, constants = recurrent_config.check, recurrent_config.constants
check_one_document = recurrent_config.check_one_document


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
    self.embed = table(config, size)
    self.embed_dropout = nn.Dropout(config.embed_dropout)
    self.blocks = stack(config, size, config.encoder_widths, both=config.bidirectional)

  def __call__(
      self, encoder_inputs: jax.Array, counts: jax.Array, train: bool
  ) -> tuple[list[cells.Carry], Parts]:
    """Reads encoder inputs.

    Args:
      encoder_inputs: i32[B, S], padded on the right.
      counts: i32[B]: how many of a row's are no padding; up to `encoder_length`,
        `pad_token` is read in its place.
      train: Whether dropout acts.

    Returns:
      A layer, its carry, dtype[B, U] each; and the outputs of the last layer, dtype[S,
      B, U] each, of which `places` says which are no padding.
    """
    config = self.config
    # Some published encoders were trained without a mask and have read their padding.
    # Up to `encoder_length` it is read here too, and beyond that never.
    more = max(0, config.encoder_length - encoder_inputs.shape[1])
    tokens = jnp.pad(encoder_inputs, ((0, 0), (0, more))).T  # [S, B]
    steps = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]
    tokens = jnp.where(steps < counts[None], tokens, config.pad_token)
    valid = places(config, counts, len(tokens)).T
    x, carries = embedded(self.embed, self.embed_dropout, tokens, train), []
    for block in self.blocks:
      carry, x = block.summarize(x, valid, train)
      carries.append(carry)
    return carries, x


def places(
    config: config_lib.Recurrent, counts: jax.Array, length: int) -> jax.Array:
  """Returns bool[B, S], which places of what an encoder reads are no padding.

  Args:
    config: The model's config.
    counts: i32[B], as for an `Encoder`.
    length: S.
  """
  steps = jnp.arange(length, dtype=jnp.int32)[None]
  return steps < jnp.maximum(counts, config.encoder_length)[:, None]


def handed_on(carries: list[cells.Carry], top: Parts | None) -> dict[str, jax.Array]:
  """Returns by name what an `Encoder` gives the decoder, with rows first.

  Args:
    carries: A layer, its carry dtype[B, U].
    top: The outputs of the last layer, dtype[S, B, U] each; None if nothing attends.

  Returns:
    For each layer and part of its carry, such as `layer_0_h`, dtype[B, U]; and `top`
    dtype[B, S, M], in which the units of two directions alternate.
  """
  found = {f"{names.layer(i)}_{state}": part for i, carry in enumerate(carries)
           for state, part in zip(cells.STATES, carry)}
  if top is None:
    return found
  value = top[""]
  if BACKWARD in top:
    value = jnp.stack([value, top[BACKWARD]], axis=-1).reshape(*value.shape[:2], -1)
  return found | {TOP: value.swapaxes(0, 1)}


def carries_of(
    config: config_lib.Recurrent, found: dict[str, jax.Array]) -> list[cells.Carry]:
  """Returns the carries out of what `handed_on` returned."""
  states = cells.STATES[:cells.KINDS[config.cell].states]
  return [tuple(found[f"{names.layer(i)}_{state}"] for state in states)
          for i in range(config.num_layers)]


def counted(
    encoder_inputs: jax.Array | None, counts: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Returns both arguments of an `Encoder`, with counts where there were none.

  Raises:
    errors.UserError: If there are no encoder inputs.
  """
  recurrent_config.check_encoder(encoder_inputs)
  assert encoder_inputs is not None
  if counts is None:
    counts = jnp.full(encoder_inputs.shape[:1], encoder_inputs.shape[1], jnp.int32)
  return encoder_inputs, counts


def table(config: config_lib.Recurrent, size: int) -> layers.Embed | None:
  """Returns the embedding of a side that has some tokens; None if nothing embeds."""
  return layers.Embed(
      size, config.embed_width, dtype=layers.computation_dtype(config.dtype)
  ) if config.embed_width else None


# Without an embedding, tokens stay whole numbers: the product of a one-hot vector with
# a kernel is a row of it, which the cell looks up. A token that is dropped is dropped
# wherever it stands, as if its row of the table were zeros (Merity et al., 2018,
# section 4.3). A tied output still reads the whole table.
def embedded(
    embed: layers.Embed | None, dropout: nn.Dropout, tokens: jax.Array, train: bool
) -> Parts:
  """Returns what the first layer of a side reads.

  Args:
    embed: What `table` returned.
    dropout: What drops tokens.
    tokens: i32[...].
    train: Whether it acts.
  """
  if embed is None:
    return {"": tokens}
  x = embed(tokens)
  if train and dropout.rate:
    kept = dropout(jnp.ones((embed.size,), x.dtype), deterministic=False)
    x *= jnp.take(kept, tokens, mode="clip")[..., None]
  return {"": x}


# A tied table is the kernel already, and only what it lacks becomes a module.
def output(
    config: config_lib.Recurrent, top: tuple[Input, ...]) -> Any:
  """Returns the output layer: a kernel, or with a tied table at most a bias."""
  if config.tied:
    return layers.Bias(config.vocab_size, "vocab") if config.bias else None
  return Affine(top, config.vocab_size, "vocab", config)


def stack(
    config: config_lib.Recurrent, vocab_size: int, widths: tuple[int, ...],
    both: bool = False, fed: tuple[Input, ...] = (),
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
  inputs = (Input("", "embed", config.embed_width),)
  if not config.embed_width:
    inputs = (Input("", "vocab", vocab_size),)
  inputs += fed
  blocks = []
  for i, width in enumerate(widths):
    blocks.append(recurrent_layers.Layer(
        config, inputs, width, both, name=names.layer(i),
        bridged=config.encoder_widths[i] * config.encoder_ways if bridged else 0))
    inputs = blocks[-1].outputs()
  return blocks
