"""Blocks of a Transformer, attention and a hidden layer each; and its output.

Axes: B batch, T position, S position that is seen, D width, F hidden width, V
vocabulary.
"""

import functools

from flax import linen as nn
import jax

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import attention
from transfer_gen.models import decoder_config
from transfer_gen.models import layers
from transfer_gen.models import remat


class Block(nn.Module):
  """Attention and a hidden layer, each beside the residual stream.

  Attributes:
    config: The model's config.
    last: Whether the output layer follows this block.
    window: Number of latest tokens that the attention sees; 0, the default, means all.
    crosses: Whether there is a cross-attention to what the encoder read, between the
      self-attention and the MLP.

  Params: attn_norm, attn, mlp_norm, mlp; cross_norm, cross_attn where there is one;
  attn_post_norm, mlp_post_norm, cross_post_norm where norms stand on both sides.
  """
  config: config_lib.Decoder
  # What a block must know of its place, since it sees no other layer.
  last: bool
  window: int = 0
  crosses: bool = False

  @property
  def key(self) -> str:
    """The layer's name, such as `layer_3`, which is also its key in caches."""
    assert self.name is not None
    return self.name

  # A tied output has no leaf that could declare that it contracts `embed`. With
  # post-norm, the norm before it is the last block's, which declares it instead. One
  # dropout module serves all branches: it has no params, and each call draws a new
  # mask.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    ends = self.last and config.norm_order == "post"
    self.attn_norm = attention.norm(config)
    self.attn = attention.Attention(config, self.window)
    if self.crosses:
      self.cross_norm = attention.norm(config)
      self.cross_attn = attention.Attention(config)
    # GPT-J feeds attention and MLP from one norm, GPT-NeoX from one each.
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
    if slot is not None:  # Nothing is differentiated while texts are written.
      return self.compute(x, positions, mask, slot, train, bias, memory)
    y = remat.again(
        self.config.remat, self,
        lambda block, x, positions, mask, bias, memory: block.compute(
            x, positions, mask, None, train, bias, memory)[0],
        x, positions, mask, bias, memory)
    return y, None

  def compute(
      self, x: jax.Array, positions: jax.Array, mask: jax.Array,
      slot: tuple[attention.Cache, jax.Array] | None, train: bool,
      bias: jax.Array | None = None,
      memory: tuple[attention.Cache, jax.Array] | None = None
  ) -> tuple[jax.Array, attention.Cache | None]:
    """As `__call__`, with all that it computes kept for the backward pass."""
    seen = self._seen("attn", x)
    mixed, kept = self.attn(seen, positions, mask, slot, bias)
    if self.config.block != "serial":  # Wang and Komatsuzaki, 2021.
      # Such blocks have no cross-attention and norms only in front:
      # `decoder_config.check` refuses the rest.
      one = self.config.block == "parallel_one_norm"
      drop = functools.partial(self.dropout, deterministic=not train)
      y = x + drop(mixed)
      return y + drop(self.mlp(seen if one else self.mlp_norm(x))), kept
    x = self._added("attn", x, mixed, train)
    # Without a memory, blocks that both sides share run for the encoder.
    if self.crosses and memory is not None:
      # Padding of what the encoder read is hidden from all T positions alike.
      keys, valid = memory
      looked = self.cross_attn.look(self._seen("cross", x), keys, valid[:, None])
      x = self._added("cross", x, looked, train)
    return self._added("mlp", x, self.mlp(self._seen("mlp", x)), train), kept

  # With post-norm, the stream was normalized when the last branch was added to it, and
  # a branch reads it as it is.
  def _seen(self, part, x):
    """Returns what a branch reads."""
    post = self.config.norm_order == "post"
    return x if post else getattr(self, f"{part}_norm")(x)

  def _added(self, part, x, y, train):
    """Returns the stream with the output of a branch added to it."""
    if self.config.norm_order == "both":
      # As in Gemma 2, the second norm is on the branch, so that the stream itself is
      # never normalized between blocks.
      y = getattr(self, f"{part}_post_norm")(y)
    x += self.dropout(y, deterministic=not train)
    # Post-norm normalizes the sum, LayerNorm(x + Sublayer(x)) (Vaswani et al., 2017,
    # section 3.1), and not the branch.
    return getattr(self, f"{part}_norm")(x) if self.config.norm_order == "post" else x


class MLP(nn.Module):
  """The hidden layer: down(act(up(x))), or down(act(gate(x)) * up(x)).

  Attributes:
    config: The model's config.

  Params: up, gate kernel f32[D, F], bias f32[F]; down kernel f32[F, D], bias f32[D].
  """
  config: config_lib.Decoder

  # `up` and `gate` are two kernels and not one of twice the width, so that the axis
  # `mlp` means one hidden unit in both and can grow or be pruned.
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
    # The activation is on the gate and not on `up`: GLU variants (Shazeer, 2020,
    # equation 6) are named by it.
    if config.activation in decoder_config.GATES:
      gate = dense("gate", config.mlp_size, "embed", "mlp")(x)
      hidden *= decoder_config.GATES[config.activation](gate)
    else:
      hidden = decoder_config.ACTIVATIONS[config.activation](hidden)
    return dense("down", config.width, "mlp", "embed")(hidden)


# A list of blocks and not one scanned block: each layer has params of its own name,
# which plans refer to, and may have a window of its own.
def stack(config: config_lib.Decoder, side: str) -> list[Block]:
  """Returns the blocks of one side, `encoder` or `decoder`, or of a model without.

  Call it in `setup` of the module that owns the blocks.
  """
  count = decoder_config.num_layers(config, side)
  crosses = side == "decoder" and not decoder_config.latent_width(config)
  return [
      Block(config, last=i == count - 1 and side != "encoder", window=config.window(i),
            crosses=crosses, name=names.layer(i))
      for i in range(count)]


def output_reads(config: config_lib.Decoder) -> tuple[str, ...]:
  """Returns the axes that the last norm declares for an output without a kernel."""
  return ("embed",) if config.tied and not config.transform else ()


class Output(nn.Module):
  """The output over tokens, with the layer before it if there is one.

  Attributes:
    config: The model's config.

  Params: transform/dense, transform/norm (if used), head; a tied output has no kernel.
  """
  config: decoder_config.Config

  def setup(self) -> None:
    """Creates the submodules and params."""
    if self.config.transform:
      self.transform = Transform(self.config)
    self.head = _head(self.config)

  def __call__(self, embed: layers.Embed, x: jax.Array) -> jax.Array:
    """Maps a stack's output dtype[B, T, D] to logits dtype[B, T, V]."""
    config = self.config
    x = self.transform(x) if config.transform else x
    # The softcap comes last, because it bounds what the loss sees (Gemma 2).
    y = embed.attend(x) if config.tied else x
    y = self.head(y) if self.head is not None else y
    return attention.capped(y * config.logit_scale, config.logit_softcap)


class Transform(nn.Module):
  """A dense layer, the activation and a norm, as BERT has them before its output.

  Attributes:
    config: The model's config.

  Params: dense kernel f32[D, D], bias f32[D]; norm.
  """
  config: decoder_config.Config

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[B, T, D] to the same."""
    config = self.config
    x = layers.Dense(
        (config.width,), axes=("embed", "embed"), reads=("embed",),
        kernel_init=config.init, bias=config.bias, dtype=x.dtype, name="dense")(x)
    x = decoder_config.ACTIVATIONS[config.activation](x)
    reads = ("embed",) if config.tied else ()  # The tied output has no leaf to say so.
    return attention.norm(config, reads, name="norm")(x)


# A tied table is the kernel already, and only what it lacks becomes a module.
def _head(config: decoder_config.Config) -> nn.Module | None:
  """Returns the output layer: a kernel, or with a tied table at most a bias."""
  if config.tied:
    return layers.Bias(config.vocab_size, "vocab") if config.logit_bias else None
  return layers.Dense(
      (config.vocab_size,), axes=("embed", "vocab"), reads=("embed",),
      kernel_init=config.init, bias=config.logit_bias,
      dtype=layers.computation_dtype(config.dtype))
