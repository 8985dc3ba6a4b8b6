"""Parts of recurrent models: cells over time, and layers of them.

Axes: B batch, T position, D width of an input, U hidden width, G gates. All
arrays are time-major. What a layer reads is a dict of arrays, see `affine`.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import affine
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import remat

# Named here, too: who reads a layer's outputs needs them.
Parts, Input, Affine, Vector = (
    affine.Parts, affine.Input, affine.Affine, affine.Vector)
Output, Fan = affine.Output, affine.Fan
BACKWARD, LATENT = "backward", "latent"


class Layer(nn.Module):
  """A cell that reads over time, or one per direction, with dropout on the input.

  Attributes:
    config: The model's config.
    inputs: The inputs that it reads.
    width: U, the number of units of each direction.
    both: Whether a second cell reads backwards.
    bridged: Number of units of an encoder's state that a bridge leads to the first
      state; 0 if there is no bridge.
  """
  config: config_lib.Recurrent
  inputs: tuple[Input, ...]
  width: int
  both: bool = False
  bridged: int = 0

  def setup(self) -> None:
    """Creates the submodules and params."""
    config = self.config
    self.dropout = nn.Dropout(config.dropout)
    # One mask for all positions, which are the first axis (Gal and Ghahramani, 2016).
    self.input_dropout = nn.Dropout(config.input_dropout, broadcast_dims=(0,))
    self.hidden_dropout = nn.Dropout(config.hidden_dropout, broadcast_dims=(0,))
    self.cell = Cell(config, self.inputs, self.width)
    if self.both:
      self.backward = Cell(config, self.inputs, self.width)
    if self.bridged:
      read = (Input("", "memory", self.bridged),)
      self.bridge = [
          Affine(read, self.width, "hidden", config, name=f"bridge_{state}")
          for state in cells.STATES[:cells.KINDS[config.cell].states]]

  def first(self, carry: cells.Carry) -> cells.Carry:
    """Returns the first carry after an encoder's last one, dtype[B, U] each."""
    if not self.bridged:
      return carry
    mapped = tuple(bridge({"": state}) for bridge, state in zip(self.bridge, carry))
    if self.config.bridge == "tanh":
      return tuple(jnp.tanh(state) for state in mapped)
    return mapped

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
    return remat.again(
        self.config.remat, self,
        lambda layer, *given: layer.compute(*given, train=train), x, carry, begins)

  def compute(
      self, x: Parts, carry: cells.Carry | None, begins: jax.Array | None, train: bool
  ) -> Parts:
    """As `__call__`, with all that it computes kept for the backward pass."""
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

  def looped(self, x: Parts, train: bool) -> tuple[Any, ...]:
    """As `Cell.looped`, with dropout of what is read before the loop."""
    return self.cell.looped(self._dropped(x, train), train)

  def factors(self, part: str, steps: int, texts: int) -> jax.Array | None:
    """Returns the dropout of an input that exists only inside a loop.

    Args:
      part: Name of the input.
      steps: T.
      texts: R, the number of rows.

    Returns:
      Factors dtype[T, D, R] for training, or None if nothing is dropped.
    """
    read = next(read for read in self.inputs if read.part == part)
    if not (self.dropout.rate or self._locked(part).rate):
      return None
    like = jnp.ones((steps, read.size, texts),
                    layers.computation_dtype(self.config.dtype))
    return self._dropped({part: like}, train=True)[part]

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
    return remat.again(
        self.config.remat, self,
        lambda layer, *given: layer.compute_summary(*given, train=train), x, valid)

  def compute_summary(
      self, x: Parts, valid: jax.Array, train: bool) -> tuple[cells.Carry, Parts]:
    """As `summarize`, with all that it computes kept for the backward pass."""
    x, batch = self._dropped(x, train), valid.shape[1]
    carry, h = self.cell.summarize(x, valid, train)
    if not self.both:
      return carry, {"": h}
    back, turned = self.backward.summarize(_turned(x), valid[::-1], train)
    carry = tuple(jnp.stack(pair, axis=-1).reshape(batch, -1)
                  for pair in zip(carry, back))
    return carry, {"": h, BACKWARD: turned[::-1]}

  # Tokens are indices, which dropout would turn into other tokens. A latent has noise
  # already, the same at all steps.
  def _dropped(self, x, train):
    drop = lambda name, part: self._locked(name)(
        self.dropout(part, deterministic=not train), deterministic=not train)
    return {name: drop(name, part)
            if jnp.issubdtype(part.dtype, jnp.floating) and name != LATENT else part
            for name, part in x.items()}

  def _locked(self, part):
    axes = {read.part: read.axis for read in self.inputs}
    return self.input_dropout if axes[part] == "embed" else self.hidden_dropout


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
    """dtype[T, B, D], or [1, B, D], each to h dtype[T, B, U]; others as for `Layer`."""
    a = self._inputs(x)
    carry = self.start(a.shape[1], a.dtype) if carry is None else carry
    return cells.unroll(
        self._kind(), carry, a, *self._recurrent(a.dtype, train), begins)

  def extend(
      self, x: Parts, valid: jax.Array, carry: cells.Carry
  ) -> tuple[cells.Carry, jax.Array]:
    """Continues from a carry.

    Args:
      x: dtype[T, B, D] each.
      valid: bool[T, B]; the carry stands still where it is False.
      carry: The state before.

    Returns:
      The state after, and h dtype[T, B, U].
    """
    a = self._inputs(x)
    kernel, bias = self._recurrent(a.dtype, train=False)
    return cells.read(self._kind(), carry, a, kernel, bias, valid)

  def summarize(
      self, x: Parts, valid: jax.Array, train: bool) -> tuple[cells.Carry, jax.Array]:
    """As `extend`, of whole texts, which begin from an empty carry."""
    a = self._inputs(x)
    start = self.start(a.shape[1], a.dtype)
    return cells.summarize(
        self._kind(), start, a, *self._recurrent(a.dtype, train), valid)

  # What an attention reads exists only inside its loop over time, which therefore
  # multiplies by itself.
  def looped(
      self, x: Parts, train: bool
  ) -> tuple[jax.Array, Parts, cells.Kernel, jax.Array | None]:
    """Returns what a loop needs that reads some of the inputs step by step.

    Args:
      x: dtype[T, B, D] each: the inputs that are known for all steps, if any.
      train: Whether dropout acts on the recurrent kernel.

    Returns:
      What these inputs and the bias add to the gates, dtype[T, B, G, U], or
      dtype[1, 1, G, U] without inputs; the kernels of the other inputs, dtype[D, G, U]
      by part; the recurrent kernel, and its bias.
    """
    a = self._inputs(x)
    return a, self._later(tuple(x), a.dtype), *self._recurrent(a.dtype, train)

  def _kind(self):
    config = self.config
    return cells.kind(config.cell, config.gate, config.reset_after)

  # All steps are multiplied at once, before the loop: one large product instead of T
  # small ones that each read the kernel again. A bias is added here for the same
  # reason.
  def _inputs(self, x):
    """Products of the inputs of all steps at once, and the bias, [T, B, G, U]."""
    dtype = layers.computation_dtype(self.config.dtype)
    shape, total = self.recurrent_kernel.shape[1:], None
    for part, kernel in self.input_kernels.items():
      if part not in x:
        continue
      flat, steps = kernel.reshape(kernel.shape[0], -1), x[part].shape[:2]
      if jnp.issubdtype(x[part].dtype, jnp.integer):
        rows = jnp.take(flat, x[part].reshape(-1), axis=0, mode="clip")
        product = rows.astype(dtype)
      else:
        # Steps and rows are not merged, see `cells`.
        product = x[part] @ flat.astype(dtype)
      # What is the same at every step has one step, and is multiplied once.
      product = product.reshape(*steps, -1)
      total = product if total is None else total + product
    bias = self.bias
    if self.config.cell == "lstm" and self.config.forget_bias:
      bias = jnp.zeros(shape) if bias is None else jnp.asarray(bias)
      bias = bias.at[1].add(self.config.forget_bias)
    if total is None:
      total = jnp.zeros((1, 1, shape[0] * shape[1]), dtype)
    if bias is not None:
      total = layers.added(total, bias.reshape(1, 1, -1))
    return total.reshape(*total.shape[:2], *shape)

  def _later(self, known, dtype):
    """Returns the kernels of the inputs whose parts are not among the known ones."""
    return {part: kernel.astype(dtype) for part, kernel in self.input_kernels.items()
            if part not in known}

  # A method of its own, like `_inputs` and `_later`, so that adapters can intercept it
  # and hand the loop a kernel with a low-rank part. One mask holds for all steps and
  # rows, so the loop sees a plain kernel (DropConnect: Wan et al., 2013).
  def _recurrent(self, dtype, train):
    bias = self.recurrent_bias
    kernel = self.weight_dropout(self.recurrent_kernel, deterministic=not train)
    return (kernel.astype(dtype),
            None if bias is None else bias.astype(dtype))


def _turned(x: Parts) -> Parts:
  return {name: part[::-1] for name, part in x.items()}


# The whole [U, G U] matrix has orthonormal rows, as in Keras. G square matrices that
# are orthogonal each would have rows of norm sqrt(G) together.
def _orthonormal(key, shape, dtype=jnp.float32):
  flat = (shape[0], shape[1] * shape[2])
  return nn.initializers.orthogonal()(key, flat, dtype).reshape(shape)
