"""Recurrent language models: embedding, cells, an optional dense layer, output.

Axes: B batch, T position, D width of a layer's input, U hidden width, G gates,
F dense width, V vocabulary. Between embedding and output all is time-major.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import cells
from transfer_gen.models import layers

# GELU is the tanh approximation, as in the decoder.
_ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh, "gelu": nn.gelu}

Cache = dict[str, jax.Array | cells.Carry]


def check(config: config_lib.Recurrent) -> None:
  """Finds what no recurrent model can be built from.

  Raises:
    errors.UserError: One message: which field, its value, what it must be.
  """
  layers.choose("cell", config.cell, cells.KINDS)
  layers.choose("dense_activation", config.dense_activation, _ACTIVATIONS)
  layers.initializer(config.init, 0, 1)
  layers.computation_dtype(config.dtype)
  sizes = ("vocab_size", "num_layers", "embed_width", "hidden_width")
  for field, holds, what in (
      *((size, getattr(config, size) > 0, "positive") for size in sizes),
      ("dense_width", config.dense_width >= 0, "positive, or 0 for no dense layer"),
      ("dropout", 0 <= config.dropout < 1, "in [0, 1)"),
  ):
    if not holds:
      raise errors.UserError(
          f"model.{field} is {getattr(config, field)}, must be {what}.")


def constants(config: config_lib.Recurrent) -> dict[str, Any]:
  """What a recurrent model computes beside its params and their sizes, by name."""
  return {name: getattr(config, name)
          for name in ("cell", "dense_activation", "forget_bias")}


class Recurrent(nn.Module):
  """Tokens to logits of the next token.

  Attributes:
    config: `vocab_size` must be set.

  Params: embed, layer_0 ..., dense (if it has a width), head.
  """
  config: config_lib.Recurrent

  def setup(self):
    config = self.config
    check(config)
    dtype = layers.computation_dtype(config.dtype)
    self.embed = layers.Embed(config.vocab_size, config.embed_width, dtype=dtype)
    self.blocks = [
        Layer(config, first=i == 0, name=f"layer_{i}")
        for i in range(config.num_layers)]
    self.dropout = nn.Dropout(config.dropout)
    top = "hidden"
    if config.dense_width:
      self.dense = layers.Dense(
          (config.dense_width,), axes=("hidden", "mlp"), reads=("hidden",),
          kernel_init=config.init, dtype=dtype)
      top = "mlp"
    self.head = layers.Dense(
        (config.vocab_size,), axes=(top, "vocab"), reads=(top,),
        kernel_init=config.init, dtype=dtype)

  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """Reads whole rows, each from an empty state.

    Args:
      inputs: i32[B, T]. Rows that are shorter are padded on the right: nothing
        looks ahead, so that padding changes no logits before it.
      train: Whether dropout acts; it draws from the key `dropout`.

    Returns:
      Logits dtype[B, T, V].
    """
    x = self.embed(inputs.T)
    for block in self.blocks:
      x = block(x, train)
    return self._logits(x.swapaxes(0, 1), train)

  def init_cache(self, batch: int, length: int) -> Cache:
    """An empty cache for `extend`.

    Args:
      batch: B.
      length: Of all inputs to come; a state has one size for any.

    Returns:
      position i32[B], how many tokens each row has; and a layer, its carry: h
      dtype[B, U], of an LSTM also c.
    """
    del length
    config = self.config
    state = jnp.zeros(
        (batch, config.hidden_width), layers.computation_dtype(config.dtype))
    carry = (state,) * cells.KINDS[config.cell].states
    return {"position": jnp.zeros((batch,), jnp.int32),
            **{f"layer_{i}": carry for i in range(config.num_layers)}}

  def extend(
      self, inputs: jax.Array, counts: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Reads the next tokens of each row, a prompt or a single one.

    Args:
      inputs: i32[B, T], padded on the right.
      counts: i32[B], in [1, T]: how many of a row's inputs are no padding.
      cache: What was read before.

    Returns:
      Logits dtype[B, V] after each row's last token, and the cache that follows.
    """
    steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)
    valid = steps[:, None] < counts[None]  # [T, B]
    x = self.embed(inputs.T)
    kept = {"position": cache["position"] + counts}
    for block in self.blocks:
      kept[block.name], x = block.extend(x, valid, cache[block.name])
    # The carry stood still after a row's last token, and so did its output.
    return self._logits(x[-1], train=False), kept

  def _logits(self, x, train):
    if self.config.dense_width:
      x = self.dense(self.dropout(x, deterministic=not train))
      x = _ACTIVATIONS[self.config.dense_activation](x)
    return self.head(self.dropout(x, deterministic=not train))


class Layer(nn.Module):
  """A cell over time, with dropout on its input.

  Attributes:
    config: Of the model.
    first: Whether the embedding comes before it.
  """
  config: config_lib.Recurrent
  first: bool

  def setup(self):
    self.dropout = nn.Dropout(self.config.dropout)
    self.cell = Cell(self.config, self.first)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """dtype[T, B, D] to dtype[T, B, U]."""
    return self.cell(self.dropout(x, deterministic=not train))

  def extend(
      self, x: jax.Array, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, jax.Array]:
    """As `Cell.extend`."""
    return self.cell.extend(x, valid, carry)


class Cell(nn.Module):
  """One layer's params, and what they do over time.

  With a = input_kernel x + bias and r = recurrent_kernel h:

    rnn: h' = tanh(a + r).
    gru: gates r, z, n; r also has recurrent_bias, and the reset gate acts after
      the product (Keras: reset_after; PyTorch's and cuDNN's form):
      n = tanh(a_n + sigmoid(a_r + r_r) r_n), z = sigmoid(a_z + r_z),
      h' = (1 - z) n + z h.
    lstm: gates i, f, g, o; c' = sigmoid(f) c + sigmoid(i) tanh(g),
      h' = sigmoid(o) tanh(c'), each gate a + r; to f, `forget_bias` is added here
      and not in the params.

  Attributes:
    config: Of the model.
    first: Whether the embedding comes before it.

  Params: input_kernel f32[D, G, U], recurrent_kernel f32[U, G, U], bias f32[G, U];
  gru: recurrent_bias f32[G, U]. The recurrent kernel starts with orthonormal rows
  (Saxe et al., 2014), as in Keras, the biases at zero.
  """
  config: config_lib.Recurrent
  first: bool

  def setup(self):
    config, width = self.config, self.config.hidden_width
    kind = cells.KINDS[config.cell]
    axis, size = ("embed", config.embed_width) if self.first else ("hidden", width)
    self.input_kernel = self.param(
        "input_kernel",
        layers.boxed(layers.initializer(config.init, 0, 2),
                     axis, "gates", "hidden", reads=(axis,)),
        (size, kind.gates, width))
    self.recurrent_kernel = self.param(
        "recurrent_kernel",
        layers.boxed(_orthonormal, "hidden", "gates", "hidden", reads=("hidden",)),
        (width, kind.gates, width))
    zeros = layers.boxed(nn.initializers.zeros, "gates", "hidden")
    self.bias = self.param("bias", zeros, (kind.gates, width))
    self.recurrent_bias = None
    if kind.recurrent_bias:
      self.recurrent_bias = self.param("recurrent_bias", zeros, (kind.gates, width))

  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[T, B, D] to h dtype[T, B, U]."""
    carry = (jnp.zeros((x.shape[1], self.config.hidden_width), x.dtype),)
    kind = cells.KINDS[self.config.cell]
    return cells.unroll(
        kind, carry * kind.states, self._inputs(x), *self._recurrent(x.dtype))

  def extend(
      self, x: jax.Array, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, jax.Array]:
    """Reads on from a carry.

    Args:
      x: dtype[T, B, D].
      valid: bool[T, B]; the carry stands still where it is False.
      carry: The state before.

    Returns:
      The state after, and h dtype[T, B, U].
    """
    kind = cells.KINDS[self.config.cell]
    return cells.read(kind, carry, self._inputs(x), *self._recurrent(x.dtype), valid)

  def _inputs(self, x):
    """The inputs' share of all steps at once, [T, B, G, U]."""
    kernel, bias = self.input_kernel, self.bias
    if self.config.cell == "lstm":
      bias = jnp.asarray(bias).at[1].add(self.config.forget_bias)
    y = x.reshape(-1, x.shape[-1]) @ kernel.reshape(x.shape[-1], -1).astype(x.dtype)
    y += bias.reshape(1, -1).astype(x.dtype)
    return y.reshape(*x.shape[:2], *bias.shape)

  def _recurrent(self, dtype):
    bias = self.recurrent_bias
    return (self.recurrent_kernel.astype(dtype),
            None if bias is None else bias.astype(dtype))


def _orthonormal(key, shape, dtype=jnp.float32):
  flat = (shape[0], shape[1] * shape[2])
  return nn.initializers.orthogonal()(key, flat, dtype).reshape(shape)
