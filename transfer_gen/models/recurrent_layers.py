"""Parts of recurrent models: cells over time, and layers that read several inputs.

Axes: B batch, T position, D width of an input, U hidden width, G gates. All
arrays are time-major. Features are never concatenated: layers pass a dict of arrays,
and a layer that reads it has a kernel for each array and adds the products. Each kernel
then has one logical axis, along which it can grow or be copied.
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
    part: Name of the array in the dict; "" for the only or first one.
    axis: Logical axis of its features: `embed`, `hidden`, or `vocab` for tokens.
    size: Number of its features.
  """
  part: str
  axis: str
  size: int

  # An input without a name adds no suffix, so that a layer of one input has the plain
  # names, such as `kernel`, which plans and checkpoints contain.
  def named(self, param: str) -> str:
    """Returns the name of a param that belongs to this input."""
    return f"{param}_{self.part}" if self.part else param


# The peak begins below every score: the factor on the empty sums is then exp of a huge
# negative number, which is 0, and no step is a special case.
def nothing_averaged(inputs: tuple[Input, ...], batch: int) -> dict[str, Any]:
  """Returns the empty state of `Average.extend`: peak, total f32[B]; sums f32[B, D]."""
  return {"peak": jnp.full((batch,), _FLOOR), "total": jnp.zeros((batch,)),
          "sums": {read.part: jnp.zeros((batch, read.size)) for read in inputs}}


class Affine(nn.Module):
  """An affine map of several inputs, equal to one of their concatenation.

  Attributes:
    inputs: The inputs that it reads.
    features: F, the number of outputs.
    axis: Logical axis of the output.
    config: The model's config.

  Params: for each input a kernel f32[D, F], `kernel` or `kernel_<part>`; bias f32[F].
  """
  inputs: tuple[Input, ...]
  features: int
  axis: str
  config: config_lib.Recurrent

  # Each kernel is initialized by its own fans, and not by those of a concatenation that
  # is never formed.
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
  """An average over time, weighted by the softmax of one score per step.

  As in DeepMoji (Felbo et al., 2017, section 3.3); the scores read all inputs. The
  arithmetic is float32.

  Attributes:
    inputs: The inputs that it reads and averages.

  Params: for each input a kernel f32[D], `kernel` or `kernel_<part>`.
  """
  inputs: tuple[Input, ...]

  def setup(self) -> None:
    """Creates the submodules and params."""
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

  # An associative scan, because the average at every step is needed in training: it
  # takes a number of rounds logarithmic in T, where a loop takes T. Sums are kept
  # relative to the largest score so far, as in an online softmax, so that no
  # exponential overflows.
  def extend(
      self, parts: Parts, valid: jax.Array, kept: dict[str, Any],
      begins: jax.Array | None = None,
  ) -> tuple[dict[str, Any], Parts]:
    """Averages over all steps up to each.

    Args:
      parts: dtype[T, B, D] each.
      valid: bool[T, B]; steps where it is False have no weight.
      kept: The state of all earlier steps.
      begins: bool[T, B], True at steps whose average leaves out all steps before, as
        do those of the steps behind them. None: at none.

    Returns:
      The state after these steps, and the averages, dtype[T, B, D] each.
    """
    steps = {"peak": jnp.where(valid, self._scores(parts), _FLOOR),
             "total": jnp.ones(valid.shape),
             "sums": {name: x.astype(jnp.float32) for name, x in parts.items()}}
    steps = jax.tree.map(
        lambda old, new: jnp.concatenate([old[None], new]), kept, steps)
    if begins is not None:
      begins = jnp.pad(begins, ((1, 0), (0, 0)))  # What was kept comes first.

    def join(earlier, later):
      (a, begins), (b, b_begins) = earlier, later
      if b_begins is not None:
        # The floor takes all weight from what came before.
        a = a | {"peak": jnp.where(b_begins, _FLOOR, a["peak"])}
        begins |= b_begins
      peak = jnp.maximum(a["peak"], b["peak"])
      a, b = (jax.tree.map(lambda x, side=side: x * _like(
          jnp.exp(side["peak"] - peak), x), side) for side in (a, b))
      return {"peak": peak, "total": a["total"] + b["total"],
              "sums": jax.tree.map(jnp.add, a["sums"], b["sums"])}, begins

    steps, _ = lax.associative_scan(join, (steps, begins))
    total = steps["total"][1:, :, None]
    return jax.tree.map(lambda x: x[-1], steps), {
        name: (x[1:] / total).astype(parts[name].dtype)
        for name, x in steps["sums"].items()}

  def _scores(self, parts):
    return sum(jnp.einsum("tbd,d->tb", parts[name].astype(jnp.float32), kernel)
               for name, kernel in self.kernels.items())


class Layer(nn.Module):
  """A cell that reads over time, or one per direction, with dropout on the input.

  Attributes:
    config: The model's config.
    inputs: The inputs that it reads.
    width: U, the number of units of each direction.
    both: Whether a second cell reads backwards.
  """
  config: config_lib.Recurrent
  inputs: tuple[Input, ...]
  width: int
  both: bool = False

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    self.dropout = nn.Dropout(config.dropout)
    # One mask for all positions, which are the first axis (Gal and Ghahramani, 2016).
    first = self.inputs[0].axis == "embed"
    self.locked_dropout = nn.Dropout(
        config.input_dropout if first else config.hidden_dropout, broadcast_dims=(0,))
    self.cell = Cell(self.config, self.inputs, self.width)
    if self.both:
      self.backward = Cell(self.config, self.inputs, self.width)

  def outputs(self, prefix: str = "") -> tuple[Input, ...]:
    """Returns the outputs as inputs of a layer above, with names behind `prefix`."""
    names = ("", BACKWARD) if self.both else ("",)
    return tuple(Input("_".join(filter(None, (prefix, name))), "hidden", self.width)
                 for name in names)

  # A carry comes from an encoder, and behind one no layer reads backwards: the backward
  # cell always begins empty.
  def __call__(
      self, x: Parts, train: bool, carry: cells.Carry | None = None,
      begins: jax.Array | None = None
  ) -> Parts:
    """Reads whole rows.

    Args:
      x: dtype[T, B, D] each.
      train: Whether dropout acts.
      carry: The state to begin with; None is an empty one.
      begins: bool[T, B], True at steps that are read from an empty state; None: at
        none. Layers that read both ways do not take it.

    Returns:
      dtype[T, B, U] each.
    """
    x = self._dropped(x, train)
    out = {"": self.cell(x, carry, begins, train)}
    if self.both:
      assert begins is None
      out[BACKWARD] = self.backward(_turned(x), None, train=train)[::-1]
    return out

  def extend(
      self, x: Parts, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, Parts]:
    """As `Cell.extend`."""
    carry, h = self.cell.extend(x, valid, carry)
    return carry, {"": h}

  # Turned around, padding comes first. The carry stands still there, so the backward
  # cell begins at each row's last token.
  def summarize(
      self, x: Parts, valid: jax.Array, train: bool
  ) -> tuple[cells.Carry, Parts]:
    """Reads whole texts, which may have different lengths.

    Returns:
      The state at the end, dtype[B, U]; with two directions dtype[B, 2 U], in which
      their units alternate, so that wider directions widen the state without a change
      of order. And the outputs, dtype[T, B, U] each.
    """
    x = self._dropped(x, train)
    batch, dtype = valid.shape[1], layers.computation_dtype(self.config.dtype)
    carry, h = self.cell.extend(x, valid, self.cell.start(batch, dtype), train)
    if not self.both:
      return carry, {"": h}
    back, turned = self.backward.extend(
        _turned(x), valid[::-1], self.backward.start(batch, dtype), train)
    carry = tuple(jnp.stack(pair, axis=-1).reshape(batch, -1)
                  for pair in zip(carry, back))
    return carry, {"": h, BACKWARD: turned[::-1]}

  # Tokens are indices, which dropout would turn into other tokens.
  def _dropped(self, x, train):
    drop = lambda part: self.locked_dropout(
        self.dropout(part, deterministic=not train), deterministic=not train)
    return {name: drop(part)
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
    config: The model's config.
    inputs: The inputs that it reads. Tokens look up rows of their kernel.
    width: U, the number of units.

  Params: for each input an input_kernel f32[D, G, U], `input_kernel` or
  `input_kernel_<part>`; recurrent_kernel f32[U, G, U]; bias f32[G, U] and
  recurrent_bias f32[G, U], if the config has them. The recurrent kernel is initialized
  with orthonormal rows (Saxe et al., 2014), as in Keras, and biases with zeros.
  """
  config: config_lib.Recurrent
  inputs: tuple[Input, ...]
  width: int

  # Tokens look rows up, so the `vocab` axis is not contracted. Gates are in neither
  # axis that the initializer is given: each gate is a matrix with fans of its own,
  # and the variance does not depend on how many gates a cell has.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config, width = self.config, self.width
    gates = self._kind().gates
    kernel = layers.initializer(config.init, 0, 2)
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
    self.weight_dropout = nn.Dropout(config.weight_dropout)
    zeros = layers.boxed(nn.initializers.zeros, "gates", "hidden")
    self.bias = self.param("bias", zeros, (gates, width)) if config.bias else None
    self.recurrent_bias = None
    if config.bias and (config.recurrent_bias or self._kind().recurrent_bias):
      self.recurrent_bias = self.param("recurrent_bias", zeros, (gates, width))

  def start(self, batch: int, dtype: jnp.dtype) -> cells.Carry:
    """Returns the empty carry: h dtype[B, U], and in an LSTM also c."""
    return (jnp.zeros((batch, self.width), dtype),) * self._kind().states

  def __call__(
      self, x: Parts, carry: cells.Carry | None, begins: jax.Array | None = None,
      train: bool = False,
  ) -> jax.Array:
    """dtype[T, B, D] each to h dtype[T, B, U]; arguments as for `Layer`."""
    a = self._inputs(x)
    carry = self.start(a.shape[1], a.dtype) if carry is None else carry
    return cells.unroll(
        self._kind(), carry, a, *self._recurrent(a.dtype, train), begins)

  def extend(
      self, x: Parts, valid: jax.Array, carry: cells.Carry, train: bool = False
  ) -> tuple[cells.Carry, jax.Array]:
    """Continues from a carry.

    Args:
      x: dtype[T, B, D] each.
      valid: bool[T, B]; the carry stands still where it is False.
      carry: The state before.
      train: Whether dropout acts on the recurrent kernel.

    Returns:
      The state after, and h dtype[T, B, U].
    """
    a = self._inputs(x)
    return cells.read(self._kind(), carry, a, *self._recurrent(a.dtype, train), valid)

  def _kind(self):
    config = self.config
    return cells.kind(config.cell, config.gate, config.reset_after)

  # All steps are multiplied at once, before the loop: one large product instead of T
  # small ones that each read the kernel again. A bias is added here for the same
  # reason.
  def _inputs(self, x):
    """Products of the inputs of all steps at once, [T, B, G, U]."""
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

  # A method of its own, like `_inputs`, so that adapters can intercept it and hand the
  # loop a kernel with a low-rank part. One mask holds for all steps and rows, so the
  # loop sees a plain kernel (DropConnect: Wan et al., 2013).
  def _recurrent(self, dtype, train):
    bias = self.recurrent_bias
    kernel = self.weight_dropout(self.recurrent_kernel, deterministic=not train)
    return (kernel.astype(dtype),
            None if bias is None else bias.astype(dtype))


def _turned(x: Parts) -> Parts:
  return {name: part[::-1] for name, part in x.items()}


def _like(factor: jax.Array, x: jax.Array) -> jax.Array:
  """Returns a factor per row with axes added, so that it scales all features of x."""
  return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))


# The whole [U, G U] matrix has orthonormal rows, as in Keras. G square matrices that
# are orthogonal each would have rows of norm sqrt(G) together.
def _orthonormal(key, shape, dtype=jnp.float32):
  flat = (shape[0], shape[1] * shape[2])
  return nn.initializers.orthogonal()(key, flat, dtype).reshape(shape)
