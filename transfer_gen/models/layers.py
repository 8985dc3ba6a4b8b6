"""Layers shared by the models; each param carries its logical axes.

Axes: B batch, T position, D width, V vocabulary; other letters where they stand.
Params are float32, cast to the computation dtype where they are used.
"""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from transfer_gen import errors
from transfer_gen import tree

TABLE_STDDEV = 0.02  # As in GPT-2; a row that is looked up has no fan.

# Variance is scale / fan. Xavier: Glorot and Bengio, 2010, equations 12 and 16;
# He: He et al., 2015, equation 10; LeCun: LeCun et al., 1998, section 4.6.
_SCALINGS = {
    f"{name}_{distribution}": (scale, fan, drawn)
    for name, scale, fan in (
        ("xavier", 1.0, "fan_avg"), ("he", 2.0, "fan_in"), ("lecun", 1.0, "fan_in"))
    for distribution, drawn in (("uniform", "uniform"), ("normal", "truncated_normal"))
}

# Parts that `_product` divides the contraction of a single row into. 2 and 8 were as
# fast.
_PARTS = 4

_Axis = int | tuple[int, ...]


def initializer(
    name: str, in_axis: _Axis, out_axis: _Axis
) -> nn.initializers.Initializer:
  """Returns the kernel initializer of a name.

  Fans are products over the axes named: of a kernel [D, H, K] with in_axis 0 and
  out_axis (1, 2) they are D and H K. An axis in neither, such as the gates of
  [D, 4, U], is a batch of kernels, each with fans D and U.

  Args:
    name: `xavier_uniform`, `xavier_normal`, `he_uniform`, `he_normal`,
      `lecun_uniform`, `lecun_normal` or `truncated_normal`. The last one has standard
      deviation 0.02 and is truncated at twice that without rescaling; the other normals
      are truncated too, and rescaled to the variance of their formula.
    in_axis: Dimensions that the layer contracts.
    out_axis: Dimensions of the layer's output.

  Raises:
    errors.UserError: If the name is unknown.
  """
  if name == "truncated_normal":
    return nn.initializers.truncated_normal(TABLE_STDDEV)
  scale, mode, distribution = choose("init", name, _SCALINGS | {"truncated_normal": ()})
  fans = {in_axis} if isinstance(in_axis, int) else set(in_axis)
  fans |= {out_axis} if isinstance(out_axis, int) else set(out_axis)

  # JAX counts every axis that is not in, out or batch as part of the receptive field,
  # as in a convolution, and would multiply the gates into both fans.
  def init(key, shape, dtype=jnp.float32):
    batch = tuple(axis for axis in range(len(shape)) if axis not in fans)
    return nn.initializers.variance_scaling(
        scale, mode, distribution, in_axis=in_axis, out_axis=out_axis,
        batch_axis=batch)(key, shape, dtype)
  return init


# The box is what plans, shardings and growth know of a param. It exists only between
# `init` and `tree.unbox`: layers compute with plain arrays.
def boxed(
    init: nn.initializers.Initializer, *axes: str, reads: tuple[str, ...] = ()
) -> Callable[..., Any]:
  """Returns an initializer whose value carries its axes and those it contracts.

  The initializer returns a `tree.Axes`; `nn.Module.param` takes the array out of it.
  """
  return lambda *args: tree.Axes(init(*args), names=axes, reads=reads)


def choose(field: str, name: str, choices: dict[str, Any]) -> Any:
  """Returns `choices[name]`.

  Raises:
    errors.UserError: If there is no such choice; the message names the config `field`.
  """
  if name not in choices:
    raise errors.UserError(
        f"model.{field} is {name!r}, must be one of {', '.join(sorted(choices))}.")
  return choices[name]


def computation_dtype(name: str) -> jnp.dtype:
  """Returns the dtype that `config.dtype` names.

  Raises:
    errors.UserError: If models cannot compute in it.
  """
  return jnp.dtype(choose(
      "dtype", name, {n: n for n in ("float32", "bfloat16", "float16")}))


# The gradient of what is added to every token is a sum over all of them. In bfloat16
# such a sum stops growing once its terms are below 1/256 of it.
def added(x: jax.Array, param: jax.Array) -> jax.Array:
  """Returns the sum of dtype[...] and float32 of as many dimensions, as dtype[...].

  The sum is float32, and so is the sum over tokens that is the param's gradient.
  """
  return (x.astype(jnp.float32) + param).astype(x.dtype)


class Dense(nn.Module):
  """An affine map of the last dimensions of its input.

  Attributes:
    features: Sizes of the output dimensions.
    axes: Names of the kernel's dimensions; the contracted ones come first.
    reads: Axes that are contracted, here or by a later product that has no leaf: those
      of a query also hold `kv`, and then its bias reads `kv` too.
    kernel_init: Name of the kernel's initializer.
    bias: Whether the layer has a bias, which is initialized to zero.
    dtype: Computation dtype.

  Params: kernel f32[*inputs, *features], bias f32[*features].
  """
  features: tuple[int, ...]
  # With the contracted axes first, a kernel of any rank becomes a matrix by a reshape,
  # which moves no data.
  axes: tuple[str, ...]
  reads: tuple[str, ...]
  kernel_init: str
  bias: bool = True
  dtype: jnp.dtype = jnp.float32

  # Operands are reshaped to matrices: on XLA's CPU backend, a product with 3-D
  # activations took half as long again. Params stay float32 and are cast here, so that
  # the optimizer never adds small updates to rounded weights. A bias does not meet the
  # inputs of its own kernel, so it reads only what is contracted later.
  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[..., *inputs] to dtype[..., *features]."""
    num_inputs = len(self.axes) - len(self.features)
    batch, inputs = x.shape[:-num_inputs], x.shape[-num_inputs:]
    init = initializer(
        self.kernel_init, tuple(range(num_inputs)),
        tuple(range(num_inputs, len(self.axes))))
    kernel = self.param(
        "kernel", boxed(init, *self.axes, reads=self.reads), inputs + self.features)
    y = _product(
        x.reshape(-1, math.prod(inputs)).astype(self.dtype),
        kernel.reshape(math.prod(inputs), -1).astype(self.dtype))
    if self.bias:
      reads = tuple(a for a in self.reads if a not in self.axes[:num_inputs])
      bias = self.param(
          "bias", boxed(nn.initializers.zeros, *self.axes[num_inputs:], reads=reads),
          self.features)
      y = added(y, bias.reshape(1, -1))
    return y.reshape(batch + self.features)


class Embed(nn.Module):
  """A table with one row for each token or position.

  Attributes:
    size: Number of rows.
    features: D.
    axis: Logical axis of the rows: `vocab`, `position` or `buckets`.
    feature_axis: Logical axis of the columns.
    dtype: Computation dtype.

  Params: embedding f32[size, D], initialized from a normal with standard deviation 0.02
  that is truncated at twice that, whatever initializer the kernels have.
  """
  size: int
  features: int
  axis: str = "vocab"
  feature_axis: str = "embed"
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """Creates the submodules and params."""
    init = nn.initializers.truncated_normal(TABLE_STDDEV)
    self.embedding = self.param(
        "embedding", boxed(init, self.axis, self.feature_axis),
        (self.size, self.features))

  def __call__(self, index: jax.Array) -> jax.Array:
    """Looks rows up: i32[...] to dtype[..., D]; too large indices read the last row."""
    # The default mode of `take` returns NaN for an index outside, and padding may have
    # positions behind the table. Rows are cast after the look-up, so that the whole
    # table is not.
    return jnp.take(self.embedding, index, axis=0, mode="clip").astype(self.dtype)

  def attend(self, x: jax.Array) -> jax.Array:
    """Multiplies with every row: dtype[..., D] to dtype[..., size]."""
    rows = self.embedding.astype(self.dtype)
    # The table is contracted along its columns as it lies, [V, D], instead of being
    # transposed first.
    y = lax.dot_general(
        x.reshape(-1, self.features).astype(self.dtype), rows, (((1,), (1,)), ((), ())))
    return y.reshape(*x.shape[:-1], self.size)


class Bias(nn.Module):
  """A bias alone, for use after the product of another layer.

  Attributes:
    size: Size of the last dimension.
    axis: Logical axis of the last dimension.

  Params: bias f32[size], initialized to zero.
  """
  size: int
  axis: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[..., size] to the same."""
    bias = self.param("bias", boxed(nn.initializers.zeros, self.axis), (self.size,))
    # Axes are added by hand, here and in norms: JAX can be set to refuse operands of
    # different ranks, and the models then still run.
    return added(x, jnp.expand_dims(bias, tuple(range(x.ndim - 1))))


class Norm(nn.Module):
  """LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019), of features.

  Attributes:
    kind: `layer` or `rms`.
    epsilon: Added to the variance, or to the mean square.
    bias: For LayerNorm: whether it has a bias.
    offset: Number added to the scale when it is used; the param does not contain it.
    axis: Logical axis of the features, D.
    reads: (axis,) if a product follows that has no leaf of its own to declare what it
      contracts: that of a tied output, or of queries with keys.
    dtype: Dtype of the result; the statistics are float32.

  Params: scale f32[D], bias f32[D].
  """
  kind: str = "layer"
  epsilon: float = 1e-5
  bias: bool = True
  offset: float = 0.0
  axis: str = "embed"
  reads: tuple[str, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """dtype[..., D] to the same."""
    centred = choose("norm", self.kind, {"layer": True, "rms": False})
    # A mean over D of bfloat16 squares would lose what the small ones add.
    x = x.astype(jnp.float32)
    if centred:
      # The mean goes first. The form E[x^2] - E[x]^2, Flax's default, takes one pass
      # but cancels where the mean is large.
      x -= x.mean(-1, keepdims=True)
    x *= lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
    # A fresh norm multiplies by 1 whatever its offset is: Gemma stores scale - 1.
    scale = self._param("scale", nn.initializers.constant(1 - self.offset), x)
    # In float32, before rounding, as in Gemma. Transformers rounds before a Llama's
    # scale; the two differ only in a dtype below float32.
    x *= scale + self.offset if self.offset else scale
    if centred and self.bias:
      x += self._param("bias", nn.initializers.zeros, x)
    return x.astype(self.dtype)

  def _param(self, name, init, x):
    param = self.param(name, boxed(init, self.axis, reads=self.reads), x.shape[-1:])
    return jnp.expand_dims(param, tuple(range(x.ndim - 1)))


# Most layers are modules that return their output, and `taps` listens to these. What a
# loop over time computes, or only a part of a module, has no such call.
class Tap(nn.Module):
  """A place where a model hands out what a layer returns; it has no params.

  Attributes:
    layer: Number of the layer, counted from 0.
  """
  layer: int

  def is_heard(self) -> bool:
    """Returns False; who listens answers in its place, see `taps.listening`."""
    return False

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns dtype[B, T, D] as it is."""
    return x


def _product(x, kernel):
  """Returns the product of dtype[M, K] and dtype[K, N]."""
  if x.shape[0] > 1 or x.shape[1] % _PARTS:
    # One plain product of two matrices: the form that every backend is fast at.
    return lax.dot(x, kernel)
  # A single row, as in generation, reads the kernel once and does little else. XLA's
  # CPU backend does so on one core, but a batch of products on all of them.
  x, kernel = x.reshape(_PARTS, -1), kernel.reshape(_PARTS, -1, kernel.shape[1])
  return jnp.einsum("pk,pkn->pn", x, kernel).sum(0, keepdims=True)
