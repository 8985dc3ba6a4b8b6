"""Parts of recurrent models: cells over time, and layers that read several inputs.

Axes: B batch, T position, D width of an input, U hidden width, G gates. All is
time-major. Features are never concatenated: what passes between layers is a dict of
arrays, and who reads it has a kernel for each and adds.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import cells
from transfer_gen.models import layers

Parts = dict[str, jax.Array]
BACKWARD = "backward"
_FLOOR = -1e30  # Below any score; finite, so that nothing becomes NaN.


class Input(NamedTuple):
  """One of the arrays that a layer reads.

  Attributes:
    part: Its name in the dict; "" for an only or first one.
    axis: Its logical axis: `embed`, `hidden`, or `vocab` for tokens.
    size: Its features.
  """
  part: str
  axis: str
  size: int

  def named(self, param: str) -> str:
    """The name of a param that belongs to it."""
    return f"{param}_{self.part}" if self.part else param


def nothing_averaged(inputs: tuple[Input, ...], batch: int) -> dict[str, Any]:
  """What `Average.extend` keeps, before it: peak, total f32[B], and sums f32[B, D]."""
  return {"peak": jnp.full((batch,), _FLOOR), "total": jnp.zeros((batch,)),
          "sums": {read.part: jnp.zeros((batch, read.size)) for read in inputs}}


class Affine(nn.Module):
  """An affine map of several inputs, as of their concatenation.

  Attributes:
    inputs: What it reads.
    features: F.
    axis: Of the output.
    config: Of the model.

  Params: an input, kernel f32[D, F], called `kernel` or `kernel_<part>`; bias f32[F].
  """
  inputs: tuple[Input, ...]
  features: int
  axis: str
  config: config_lib.Recurrent

  @nn.compact
  def __call__(self, parts: Parts) -> jax.Array:
    """dtype[..., D] each to dtype[..., F]."""
    dtype = layers.computation_dtype(self.config.dtype)
    total: Any = 0
    for read in self.inputs:
      kernel = self.param(
          read.named("kernel"),
          layers.boxed(layers.initializer(self.config.init, 0, 1),
                       read.axis, self.axis, reads=(read.axis,)),
          (read.size, self.features))
      x = parts[read.part].astype(dtype)
      total += lax.dot(x.reshape(-1, read.size), kernel.astype(dtype))
    if self.config.bias:
      bias = self.param("bias", layers.boxed(nn.initializers.zeros, self.axis),
                        (self.features,))
      total += bias.reshape(1, -1).astype(dtype)
    batch = parts[self.inputs[0].part].shape[:-1]
    return total.reshape(*batch, self.features)


class Average(nn.Module):
  """An average over time, weighted by the softmax of one score a step.

  As in DeepMoji (Felbo et al., 2017, section 3.3); the scores read all inputs. The
  arithmetic is float32.

  Attributes:
    inputs: What it reads and averages.

  Params: an input, kernel f32[D], called `kernel` or `kernel_<part>`.
  """
  inputs: tuple[Input, ...]

  def setup(self):
    self.kernels = {
        read.part: self.param(
            read.named("kernel"),
            layers.boxed(nn.initializers.uniform(), read.axis, reads=(read.axis,)),
            (read.size,)) for read in self.inputs}

  def __call__(self, parts: Parts) -> Parts:
    """dtype[T, B, D] each to their averages, dtype[B, D]."""
    weights = jax.nn.softmax(self._scores(parts), axis=0)  # [T, B]
    return {name: jnp.einsum("tb,tbd->bd", weights, x.astype(jnp.float32))
            .astype(x.dtype) for name, x in parts.items()}

  def extend(
      self, parts: Parts, valid: jax.Array, kept: dict[str, Any]
  ) -> tuple[dict[str, Any], Parts]:
    """Averages over all steps up to each.

    Args:
      parts: dtype[T, B, D] each.
      valid: bool[T, B]; other steps have no weight.
      kept: Of what came before.

    Returns:
      What to keep, and the averages, dtype[T, B, D] each.
    """
    steps = {
        "peak": jnp.where(valid, self._scores(parts), _FLOOR),
        "total": jnp.ones(valid.shape),
        "sums": {name: x.astype(jnp.float32) for name, x in parts.items()}}
    steps = jax.tree.map(
        lambda old, new: jnp.concatenate([old[None], new]), kept, steps)

    def join(a, b):
      peak = jnp.maximum(a["peak"], b["peak"])
      a, b = (jax.tree.map(lambda x, side=side: x * _like(
          jnp.exp(side["peak"] - peak), x), side) for side in (a, b))
      return {"peak": peak, "total": a["total"] + b["total"],
              "sums": jax.tree.map(jnp.add, a["sums"], b["sums"])}

    steps = lax.associative_scan(join, steps)
    total = steps["total"][1:, :, None]
    return jax.tree.map(lambda x: x[-1], steps), {
        name: (x[1:] / total).astype(parts[name].dtype)
        for name, x in steps["sums"].items()}

  def _scores(self, parts):
    return sum(jnp.einsum("tbd,d->tb", parts[name].astype(jnp.float32), kernel)
               for name, kernel in self.kernels.items())


class Layer(nn.Module):
  """A cell over time, or one each way, with dropout on its input.

  Attributes:
    config: Of the model.
    inputs: What it reads.
    width: U, of each way.
    both: Whether a second cell reads backwards.
  """
  config: config_lib.Recurrent
  inputs: tuple[Input, ...]
  width: int
  both: bool = False

  def setup(self):
    self.dropout = nn.Dropout(self.config.dropout)
    self.cell = Cell(self.config, self.inputs, self.width)
    if self.both:
      self.backward = Cell(self.config, self.inputs, self.width)

  def outputs(self, prefix: str = "") -> tuple[Input, ...]:
    """What a layer above reads; under names that begin with `prefix`, if any."""
    names = ("", BACKWARD) if self.both else ("",)
    return tuple(Input("_".join(filter(None, (prefix, name))), "hidden", self.width)
                 for name in names)

  def __call__(
      self, x: Parts, train: bool, carry: cells.Carry | None = None
  ) -> Parts:
    """dtype[T, B, D] each to dtype[T, B, U] each, from a carry or an empty one."""
    x = self._dropped(x, train)
    out = {"": self.cell(x, carry)}
    if self.both:
      out[BACKWARD] = self.backward(_turned(x), None)[::-1]
    return out

  def extend(
      self, x: Parts, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, Parts]:
    """As `Cell.extend`."""
    carry, h = self.cell.extend(x, valid, carry)
    return carry, {"": h}

  def summarize(
      self, x: Parts, valid: jax.Array, train: bool
  ) -> tuple[cells.Carry, Parts]:
    """Reads whole texts, ragged ones too.

    Returns:
      The state at the end, of both ways one unit of each in turn, dtype[B, 2 U], so
      that wider ways are a wider state in the same order; and dtype[T, B, U] each.
    """
    x = self._dropped(x, train)
    batch, dtype = valid.shape[1], layers.computation_dtype(self.config.dtype)
    carry, h = self.cell.extend(x, valid, self.cell.start(batch, dtype))
    if not self.both:
      return carry, {"": h}
    back, turned = self.backward.extend(
        _turned(x), valid[::-1], self.backward.start(batch, dtype))
    carry = tuple(jnp.stack(pair, axis=-1).reshape(batch, -1)
                  for pair in zip(carry, back))
    return carry, {"": h, BACKWARD: turned[::-1]}

  def _dropped(self, x, train):
    return {name: self.dropout(part, deterministic=not train)
            if jnp.issubdtype(part.dtype, jnp.floating) else part
            for name, part in x.items()}


class Cell(nn.Module):
  """One layer's params, and what they do over time.

  With a = input_kernel x + bias and r = recurrent_kernel h (+ recurrent_bias):

    rnn: h' = tanh(a + r).
    gru: gates r, z, n; with `reset_after` it has a recurrent_bias, and the reset gate
      acts after the product (PyTorch's and cuDNN's form):
      n = tanh(a_n + s(a_r + r_r) r_n), else before it:
      n = tanh(a_n + recurrent_kernel_n (s(a_r + r_r) h)); z = s(a_z + r_z),
      h' = (1 - z) n + z h.
    lstm: gates i, f, g, o; c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c'), each gate
      a + r; to f, `forget_bias` is added here and not in the params.

  s is the sigmoid, or what `gate` names.

  Attributes:
    config: Of the model.
    inputs: What it reads; where the first are tokens, rows of its kernel.
    width: U.

  Params: an input, input_kernel f32[D, G, U], called `input_kernel` or
  `input_kernel_<part>`; recurrent_kernel f32[U, G, U]; bias f32[G, U] and
  recurrent_bias f32[G, U], as far as there are. The recurrent kernel starts with
  orthonormal rows (Saxe et al., 2014), as in Keras, the biases at zero.
  """
  config: config_lib.Recurrent
  inputs: tuple[Input, ...]
  width: int

  def setup(self):
    config, width = self.config, self.width
    gates = self._kind().gates
    kernel = layers.initializer(config.init, 0, 2)
    # A table is looked up: of a token's row nothing is added up.
    self.input_kernels = {
        read.part: self.param(
            read.named("input_kernel"),
            layers.boxed(kernel, read.axis, "gates", "hidden",
                         reads=() if read.axis == "vocab" else (read.axis,)),
            (read.size, gates, width)) for read in self.inputs}
    self.recurrent_kernel = self.param(
        "recurrent_kernel",
        layers.boxed(_orthonormal, "hidden", "gates", "hidden", reads=("hidden",)),
        (width, gates, width))
    zeros = layers.boxed(nn.initializers.zeros, "gates", "hidden")
    self.bias = self.param("bias", zeros, (gates, width)) if config.bias else None
    self.recurrent_bias = None
    if config.bias and (config.recurrent_bias or self._kind().recurrent_bias):
      self.recurrent_bias = self.param("recurrent_bias", zeros, (gates, width))

  def start(self, batch: int, dtype: jnp.dtype) -> cells.Carry:
    """The empty carry: h dtype[B, U], of an LSTM also c."""
    return (jnp.zeros((batch, self.width), dtype),) * self._kind().states

  def __call__(self, x: Parts, carry: cells.Carry | None) -> jax.Array:
    """dtype[T, B, D] each to h dtype[T, B, U]; a carry of None is an empty one."""
    a = self._inputs(x)
    carry = self.start(a.shape[1], a.dtype) if carry is None else carry
    return cells.unroll(self._kind(), carry, a, *self._recurrent(a.dtype))

  def extend(
      self, x: Parts, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, jax.Array]:
    """Reads on from a carry.

    Args:
      x: dtype[T, B, D] each.
      valid: bool[T, B]; the carry stands still where it is False.
      carry: The state before.

    Returns:
      The state after, and h dtype[T, B, U].
    """
    a = self._inputs(x)
    return cells.read(self._kind(), carry, a, *self._recurrent(a.dtype), valid)

  def _kind(self):
    config = self.config
    return cells.kind(config.cell, config.gate, config.reset_after)

  def _inputs(self, x):
    """The inputs' share of all steps at once, [T, B, G, U]."""
    dtype = layers.computation_dtype(self.config.dtype)
    total: Any = 0
    for part, kernel in self.input_kernels.items():
      flat = kernel.reshape(kernel.shape[0], -1)
      if jnp.issubdtype(x[part].dtype, jnp.integer):
        rows = jnp.take(flat, x[part].reshape(-1), axis=0, mode="clip")
        total += rows.astype(dtype)
      else:
        total += x[part].reshape(-1, kernel.shape[0]) @ flat.astype(dtype)
    bias, shape = self.bias, kernel.shape[1:]
    if self.config.cell == "lstm" and self.config.forget_bias:
      bias = jnp.zeros(shape) if bias is None else jnp.asarray(bias)
      bias = bias.at[1].add(self.config.forget_bias)
    if bias is not None:
      total += bias.reshape(1, -1).astype(dtype)
    return total.reshape(*x[part].shape[:2], *shape)

  def _recurrent(self, dtype):
    bias = self.recurrent_bias
    return (self.recurrent_kernel.astype(dtype),
            None if bias is None else bias.astype(dtype))


def _turned(x: Parts) -> Parts:
  return {name: part[::-1] for name, part in x.items()}


def _like(factor: jax.Array, x: jax.Array) -> jax.Array:
  """A factor a row, for all features of it."""
  return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))


def _orthonormal(key, shape, dtype=jnp.float32):
  flat = (shape[0], shape[1] * shape[2])
  return nn.initializers.orthogonal()(key, flat, dtype).reshape(shape)
