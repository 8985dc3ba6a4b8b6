"""Affine maps of several inputs or outputs, which recurrent models consist of.

Axes: D width of an input, F outputs. Features are never concatenated: layers pass a
dict of arrays, and a layer that reads it has a kernel for each array and adds the
products. Each kernel then has one logical axis, along which it can grow or be copied.
"""

import itertools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import layers

Parts = dict[str, jax.Array]


class Input(NamedTuple):
  """One of the arrays that a layer reads.

  Attributes:
    part: Name of the array in the dict; "" for the only or first one.
    axis: Logical axis of its features, such as `embed`, or `vocab` for tokens.
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


class Affine(nn.Module):
  """An affine map of several inputs, equal to one of their concatenation.

  Attributes:
    inputs: The inputs that it reads.
    features: F, the number of outputs.
    axis: Logical axis of the output.
    config: The model's config.
    bias: Whether it has a bias; if None, as the config says.
    contracted: Whether a product without a leaf of its own contracts the output. Such
      a layer has no bias.

  Params: for each input a kernel f32[D, F], `kernel` or `kernel_<part>`; bias f32[F].
  """
  inputs: tuple[Input, ...]
  features: int
  axis: str
  config: config_lib.Recurrent
  bias: bool | None = None
  contracted: bool = False

  # Each kernel is initialized by its own fans, and not by those of a concatenation that
  # is never formed.
  def setup(self) -> None:
    """Creates the params."""
    kernel = layers.initializer(self.config.init, 0, 1)
    self.kernels = {
        read.part: self.param(
            read.named("kernel"),
            layers.boxed(kernel, read.axis, self.axis, reads=self.reads(read)),
            (read.size, self.features)) for read in self.inputs}
    biased = self.config.bias if self.bias is None else self.bias
    self.offset = self.param(
        "bias", layers.boxed(nn.initializers.zeros, self.axis), (self.features,)
    ) if biased else None

  def reads(self, read: Input) -> tuple[str, ...]:
    """Returns the axes that the kernel of an input contracts, itself or later."""
    return (read.axis, self.axis) if self.contracted else (read.axis,)

  def __call__(self, parts: Parts) -> jax.Array:
    """dtype[..., D] each to dtype[..., F]."""
    dtype = layers.computation_dtype(self.config.dtype)
    total: Any = 0
    for read in self.inputs:
      x = parts[read.part].astype(dtype)
      total += lax.dot(
          x.reshape(-1, read.size), self.kernels[read.part].astype(dtype))
    if self.offset is not None:
      total = layers.added(total, self.offset.reshape(1, -1))
    batch = parts[self.inputs[0].part].shape[:-1]
    return total.reshape(*batch, self.features)

  # A loop multiplies with the kernels itself. This is a method, so that adapters can
  # intercept it and add what they learned.
  def weights(self, dtype: jnp.dtype) -> tuple[Parts, jax.Array | None]:
    """Returns the kernels by the part that they read, dtype[D, F], and the bias."""
    return ({part: kernel.astype(dtype) for part, kernel in self.kernels.items()},
            None if self.offset is None else self.offset.astype(dtype))


class Output(NamedTuple):
  """One of the arrays that a layer gives.

  Attributes:
    part: Its name.
    axes: Logical axes of its features.
    sizes: Sizes of these axes.
  """
  part: str
  axes: tuple[str, ...]
  sizes: tuple[int, ...]


class Fan(nn.Module):
  """Affine maps of one input to several outputs, which are one product.

  Attributes:
    input: The input that it reads.
    outputs: The outputs.
    kernel_init: Name of the initializer of the kernels.

  Params: for each output kernel_<part> f32[D, ...] and bias_<part> f32[...].
  """
  input: Input
  outputs: tuple[Output, ...]
  kernel_init: str

  def setup(self) -> None:
    """Creates the params."""
    read, params = self.input, []
    for part, axes, sizes in self.outputs:
      kernel = layers.initializer(
          self.kernel_init, 0, tuple(range(1, len(sizes) + 1)))
      params.append((
          self.param(f"kernel_{part}", layers.boxed(
              kernel, read.axis, *axes, reads=(read.axis,)), (read.size, *sizes)),
          self.param(
              f"bias_{part}", layers.boxed(nn.initializers.zeros, *axes), sizes)))
    self.params = params

  # One product for all of them: each alone would be narrow.
  def __call__(self, x: jax.Array) -> Parts:
    """dtype[..., D] to f32[..., F] by part, with the sizes of the outputs as F."""
    kernels, biases = zip(*self.params)
    flat = jnp.concatenate([part.reshape(len(part), -1) for part in kernels], axis=1)
    y = lax.dot(x.reshape(-1, self.input.size), flat.astype(x.dtype))
    # In float32, because what is computed of them needs the digits.
    y = y.astype(jnp.float32) + jnp.concatenate(
        [part.reshape(-1) for part in biases])[None]
    ends = list(itertools.accumulate(math.prod(out.sizes) for out in self.outputs))
    return {out.part: part.reshape(*x.shape[:-1], *out.sizes)
            for out, part in zip(self.outputs, jnp.split(y, ends[:-1], axis=1))}


class Vector(nn.Module):
  """One weight for each feature.

  Attributes:
    size: D, the number of features.
    axis: Logical axis of the features.
    reads: Whether a product contracts the features.

  Params: kernel f32[D].
  """
  size: int
  axis: str
  reads: bool = True

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the weights, f32[D]."""
    return self.param("kernel", layers.boxed(
        nn.initializers.uniform(), self.axis, reads=(self.axis,) * self.reads),
        (self.size,))
