"""Blocks of a Transformer: attention and a hidden layer.

Axes: B batch, T position, S position that is seen, D width, F hidden width.
"""

import functools

from flax import linen as nn
import jax

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import attention
from transfer_gen.models import decoder_config
from transfer_gen.models import layers


class Block(nn.Module):
  """Attention and a hidden layer, each beside the residual stream.

  Attributes:
    config: Of the model.
    last: Whether the output comes next.
    window: How many tokens the attention sees, for `attention.Attention`.
    crosses: Whether a cross-attention to what the encoder read stands between attention
      and MLP.

  Params: attn_norm, attn, mlp_norm, mlp; cross_norm, cross_attn where there is one;
  attn_post_norm, mlp_post_norm, cross_post_norm where norms stand on both sides.
  """
  config: config_lib.Decoder
  last: bool
  window: int = 0
  crosses: bool = False

  @property
  def key(self) -> str:
    """Name of the layer, such as `layer_3`, by which caches hold its part."""
    assert self.name is not None
    return self.name

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    ends = self.last and config.norm_order == "post"
    self.attn_norm = attention.norm(config)
    self.attn = attention.Attention(config, self.window)
    if self.crosses:
      self.cross_norm = attention.norm(config)
      self.cross_attn = attention.Attention(config)
    if config.block != "parallel_one_norm":
      self.mlp_norm = attention.norm(config, output_reads(config) if ends else ())
    self.mlp = MLP(config)
    if config.norm_order == "both":
      self.attn_post_norm = attention.norm(config)
      self.mlp_post_norm = attention.norm(config)
      if self.crosses:
        self.cross_post_norm = attention.norm(config)
    self.dropout = nn.Dropout(config.dropout)

  def __call__(
      self, x: jax.Array, positions: jax.Array, mask: jax.Array,
      slot: tuple[attention.Cache, jax.Array] | None, train: bool,
      bias: jax.Array | None = None,
      memory: tuple[attention.Cache, jax.Array] | None = None
  ) -> tuple[jax.Array, attention.Cache | None]:
    """Adds what attention and MLP compute to the stream.

    Args:
      x: dtype[B, T, D], the stream.
      positions: See `attention.Attention`, as for `mask`, `slot` and `bias`.
      mask: Which positions see which.
      slot: Keys and values that were read before.
      train: Whether dropout acts.
      bias: Added to the scores.
      memory: If the block has cross-attention, the keys and values of what the encoder
        read, and bool[B, S], which of its positions are valid.

    Returns:
      dtype[B, T, D], and the layer's keys and values if there is a slot.
    """
    seen = self._seen("attn", x)
    mixed, kept = self.attn(seen, positions, mask, slot, bias)
    if self.config.block != "serial":  # Wang and Komatsuzaki, 2021.
      one = self.config.block == "parallel_one_norm"
      drop = functools.partial(self.dropout, deterministic=not train)
      y = x + drop(mixed)
      return y + drop(self.mlp(seen if one else self.mlp_norm(x))), kept
    x = self._added("attn", x, mixed, train)
    if self.crosses:
      assert memory is not None
      keys, valid = memory
      looked = self.cross_attn.look(self._seen("cross", x), keys, valid[:, None])
      x = self._added("cross", x, looked, train)
    return self._added("mlp", x, self.mlp(self._seen("mlp", x)), train), kept

  def _seen(self, part, x):
    """What a branch reads."""
    post = self.config.norm_order == "post"
    return x if post else getattr(self, f"{part}_norm")(x)

  def _added(self, part, x, y, train):
    """The stream with what a branch has made."""
    if self.config.norm_order == "both":
      y = getattr(self, f"{part}_post_norm")(y)
    x += self.dropout(y, deterministic=not train)
    return getattr(self, f"{part}_norm")(x) if self.config.norm_order == "post" else x


class MLP(nn.Module):
  """The hidden layer: down(act(up(x))), or down(act(gate(x)) * up(x)).

  Attributes:
    config: Of the model.

  Params: up, gate kernel f32[D, F], bias f32[F]; down kernel f32[F, D], bias f32[D].
  """
  config: config_lib.Decoder

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[B, T, D] to the same."""
    config = self.config

    def dense(name, features, reads, writes):
      return layers.Dense(
          (features,), axes=(reads, writes), reads=(reads,),
          kernel_init=config.init, bias=attention.biased(config, name), dtype=x.dtype,
          name=name)

    hidden = dense("up", config.mlp_size, "embed", "mlp")(x)
    if config.activation in decoder_config.GATES:
      gate = dense("gate", config.mlp_size, "embed", "mlp")(x)
      hidden *= decoder_config.GATES[config.activation](gate)
    else:
      hidden = decoder_config.ACTIVATIONS[config.activation](hidden)
    return dense("down", config.width, "mlp", "embed")(hidden)


def stack(config: config_lib.Decoder, side: str) -> list[Block]:
  """Returns the blocks of one side, `encoder` or `decoder`, or of a model without.

  Call it in `setup` of the module that owns the blocks.
  """
  count = decoder_config.num_layers(config, side)
  return [
      Block(config, last=i == count - 1 and side != "encoder", window=config.window(i),
            crosses=side == "decoder", name=names.layer(i))
      for i in range(count)]


def output_reads(config: config_lib.Decoder) -> tuple[str, ...]:
  """Axes that the last norm reads for an output that cannot say so."""
  return ("embed",) if config.tied else ()
