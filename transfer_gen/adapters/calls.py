"""Computes what adapters add to a layer while the model runs.

The gradients of A and B in x W + (x A) B s are products of rank r; the gradient of W is
formed only if W learns.

Axes: N rows of a product, I inputs and O outputs, flattened; R rank; B batch, T
position, S position that is seen, P prefix, G key heads, K head width.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen import tree
from transfer_gen.adapters import leaves
from transfer_gen.config import adapters as config_adapters
from transfer_gen.models import attention
from transfer_gen.models import cells
from transfer_gen.models import layers
from transfer_gen.models import recurrent_layers

_Product = Callable[[jax.Array], jax.Array]  # dtype[N, I] to dtype[N, O].
_ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu, "silu": nn.silu, "tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True)
class Interceptor:
  """Intercepts every method call of every module, see `nn.intercept_methods`.

  Attributes:
    adapters: The adapters, in the order in which they act.
    train: Whether dropout acts; it draws from the key `dropout`.
  """
  adapters: tuple[config_adapters.Adapter, ...]
  train: bool

  def __call__(
      self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
      context: Any) -> Any:
    """Calls a method, with what the adapters do around it."""
    # Flax intercepts every method of every module, and most pass through unchanged.
    around = _AROUND.get((type(context.module), context.method_name))
    if around is None:
      return call(*args, **kwargs)
    return around(self, context.module, call, *args, **kwargs)

  def places(
      self, module: nn.Module, kernel: str, *axes: str, reads: tuple[str, ...],
      shape: tuple[int, ...]) -> Iterator["_Place"]:
    """Yields a place for each adapter that acts on a kernel of a module.

    Args:
      module: The module.
      kernel: Name of the kernel in it.
      *axes: Axes of the kernel, as in its box.
      reads: Axes that the kernel contracts, as in its box.
      shape: Sizes of the kernel.
    """
    name = "/".join((*module.path, kernel))
    # By the kernel's whole name, so that plans and adapters use the same patterns.
    mine = [a for a in self.adapters if leaves.acts(a, name)]
    if mine:
      box = tree.Axes(jax.ShapeDtypeStruct(shape, np.float32), names=axes, reads=reads)
      spec = tree.specs({name: box})[name]
      for adapter in mine:
        yield _Place(adapter, module, name, spec, self.train)


@dataclasses.dataclass(frozen=True)
class _Place:
  """One adapter beside one kernel."""
  adapter: Any  # A `config_adapters.Adapter`; each method serves one kind.
  module: nn.Module
  kernel: str
  spec: tree.Spec
  train: bool

  def params(self, dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Returns the adapter's leaves by part."""
    return {part: self.own(self.adapter.leaf(self.kernel, part).rpartition("/")[2])
            .astype(dtype)
            for part in leaves.by_part(self.adapter, self.kernel, self.spec)}

  def own(self, name: str) -> jax.Array:
    """Returns a param of the module."""
    assert self.module.scope is not None  # It is bound while it runs.
    # Not `self.param`: the module does not declare the leaves of its adapters.
    return self.module.scope.get_variable("params", name)

  def low_rank(self, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns (x A) B s, dtype[N, I] to dtype[N, O]; tokens i32[N] read rows of A."""
    a, b = self._factors(self.params(dtype))
    if jnp.issubdtype(x.dtype, jnp.integer):
      # "clip", as in the model's own table: both must read the same row.
      read = jnp.take(a, x, axis=0, mode="clip")
    else:
      read = _narrow(self._dropped(x.astype(dtype)), a)
    # The scale acts on R columns here, and would act on O columns behind the product.
    return lax.dot(read * self.adapter.scale, b)

  def around(self, call: _Product) -> _Product:
    """Returns the layer's product with what the adapter does around it."""
    if isinstance(self.adapter, config_adapters.Prefix):
      return call  # It acts on the whole attention, see `_around_attention`.
    if isinstance(self.adapter, config_adapters.Bottleneck):
      return lambda x: self._behind(call(x))
    if isinstance(self.adapter, config_adapters.IA3):
      if leaves.scales_inputs(self.adapter, self.kernel):
        return lambda x: call(x * self._row("scale", x.dtype))
      return lambda x: _times(call(x), self._row, "scale")
    if self.adapter.dora:
      return lambda x: self._dora(x, call(x))
    return lambda x: _plus(call(x), self.low_rank, x)

  def _factors(self, params):
    """Returns A [I, R] and B [R, O]."""
    rank = self.adapter.rank
    return params["a"].reshape(-1, rank), params["b"].reshape(rank, -1)

  def _row(self, part, dtype):
    return self.params(dtype)[part].reshape(1, -1)

  def _dropped(self, x):
    rate = self.adapter.dropout
    if not (self.train and rate):
      return x
    # Divided by the rate of what stays, so that the expectation is x.
    kept = jax.random.bernoulli(self.module.make_rng("dropout"), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)

  def _behind(self, y):
    """Returns y + up(act(down(y))), dtype[N, O]."""
    params = self.params(y.dtype)
    width = self.adapter.width
    hidden = lax.dot(y, params["down"].reshape(-1, width)) + params["down_bias"][None]
    hidden = _ACTIVATIONS[self.adapter.activation](hidden)
    return y + lax.dot(hidden, params["up"].reshape(width, -1)) + params[
        "up_bias"].reshape(1, -1)

  def _dora(self, x, y):
    """Turns x W + b into x (W + A B s) m / |W + A B s| + b, with norms of columns.

    To the gradient the norms are constants (Liu et al., 2024, section 4.3).
    """
    # A norm is a sum over I squares, for which half precision has too few digits.
    params = self.params(jnp.float32)
    a, b = lax.stop_gradient(self._factors(params))
    kernel = lax.stop_gradient(self.own("kernel")).reshape(a.shape[0], -1)
    magnitude = norms(kernel) + params["magnitude"].reshape(-1)
    factor = magnitude / norms(kernel + lax.dot(a, b) * self.adapter.scale)
    factor = factor[None].astype(y.dtype)
    # The factor acts on x W alone, and y holds the bias, too.
    plain = y
    if self.module.has_variable("params", "bias"):
      plain -= self.own("bias").reshape(1, -1).astype(y.dtype)
    return y + (factor - 1) * plain + factor * self.low_rank(x, y.dtype)


def norms(kernel: jax.Array | np.ndarray) -> jax.Array:
  """Returns the norms of the columns of a kernel f32[I, O], f32[O]."""
  return jnp.sqrt(jnp.square(kernel).sum(0))


@jax.custom_vjp
def _narrow(x: jax.Array, a: jax.Array) -> jax.Array:
  """Returns x A, dtype[N, I] by dtype[I, R], where A has few columns.

  XLA's CPU backend takes more than twice as long for the gradient of A with its rows
  in order, [I, R], than for its transpose, which is small to turn.
  """
  return lax.dot(x, a)


def _narrow_backward(saved, d):
  # Without the barriers XLA would merge both turns into the product again.
  x, a = saved
  d_a = lax.optimization_barrier(lax.dot(lax.optimization_barrier(d.T), x))
  return lax.dot(d, a.T), d_a.T


_narrow.defvjp(lambda x, a: (lax.dot(x, a), (x, a)), _narrow_backward)


def _plus(y, add, x):
  return y + add(x, y.dtype)


def _times(y, row, part):
  return y * row(part, y.dtype)


def _around_dense(self, layer: layers.Dense, call, x):
  split = len(layer.axes) - len(layer.features)
  batch, inputs = x.shape[:-split], x.shape[-split:]
  places = list(self.places(
      layer, "kernel", *layer.axes, reads=layer.reads, shape=inputs + layer.features))
  if not places:
    return call(x)
  # Flat on both sides, so that every adapter is made of products of two matrices.
  product = lambda x: call(x.reshape(batch + inputs)).reshape(x.shape[0], -1)
  for place in places:
    product = place.around(product)
  return product(x.reshape(-1, math.prod(inputs)).astype(layer.dtype)).reshape(
      batch + layer.features)


def _around_affine(self, layer: recurrent_layers.Affine, call, parts):
  """Returns a dense layer's outputs; each input of the layer has its own kernel."""
  dtype = layers.computation_dtype(layer.config.dtype)
  kernels = {read.part: list(self.places(
      layer, read.named("kernel"), read.axis, layer.axis, reads=layer.reads(read),
      shape=(read.size, layer.features))) for read in layer.inputs}
  if not any(kernels.values()):
    return call(parts)
  batch = parts[layer.inputs[0].part].shape[:-1]
  flat = {read.part: parts[read.part].reshape(-1, read.size).astype(dtype)
          for read in layer.inputs}
  # The layer adds its inputs up inside. Beside one kernel of several, only a product
  # that is added to the sum can stand, such as LoRA's.
  if len(kernels) > 1:
    total = call(flat)
    for part, places in kernels.items():
      for place in places:
        total += place.low_rank(flat[part], dtype)
    return total.reshape(*batch, -1)
  [(part, places)] = kernels.items()
  product = lambda x: call({part: x})
  for place in places:
    product = place.around(product)
  return product(flat[part]).reshape(*batch, -1)


def _around_fan(self, layer: recurrent_layers.Fan, call, x):
  """Returns the outputs of a layer; each has a kernel of its own."""
  found, read = call(x), layer.input
  for out in layer.outputs:
    for place in self.places(
        layer, f"kernel_{out.part}", read.axis, *out.axes, reads=(read.axis,),
        shape=(read.size, *out.sizes)):
      y = found[out.part]
      found[out.part] = y + place.low_rank(
          x.reshape(-1, read.size), y.dtype).reshape(y.shape)
  return found


def _around_inputs(self, cell: recurrent_layers.Cell, call, x):
  """Returns what the inputs add to the gates of a cell, dtype[T, B, G, U]."""
  total = call(x)
  # A row that is looked up is not contracted, so a table of tokens reads no axis. Some
  # inputs may come later, see `_around_later`.
  for read in cell.inputs:
    if read.part not in x:
      continue
    for place in self.places(
        cell, read.named("input_kernel"), read.axis, "gates", "hidden",
        reads=() if read.axis == "vocab" else (read.axis,),
        shape=(read.size, *total.shape[2:])):
      part = x[read.part]
      tokens = jnp.issubdtype(part.dtype, jnp.integer)
      flat = part.reshape((-1,) if tokens else (-1, read.size))
      # What is the same at every step has one step.
      total += place.low_rank(flat, total.dtype).reshape(
          *part.shape[:2], *total.shape[2:])
  return total


# No dropout in what follows either: what A reads exists only inside a loop.
def _around_later(self, cell: recurrent_layers.Cell, call, known, dtype):
  """Returns the input kernels that a loop multiplies with, by part."""
  kernels = call(known, dtype)
  for read in cell.inputs:
    if read.part in kernels:
      kernels[read.part] = _with_low_rank(kernels[read.part], self.places(
          cell, read.named("input_kernel"), read.axis, "gates", "hidden",
          reads=(read.axis,), shape=kernels[read.part].shape))
  return kernels


def _around_weights(self, layer: recurrent_layers.Affine, call, dtype):
  """Returns the kernels and the bias of a dense layer for a loop."""
  kernels, bias = call(dtype)
  for read in layer.inputs:
    kernels[read.part] = _with_low_rank(kernels[read.part], self.places(
        layer, read.named("kernel"), read.axis, layer.axis, reads=layer.reads(read),
        shape=(read.size, layer.features)))
  return kernels, bias


def _with_low_rank(kernel, places):
  """Returns a kernel [I, ...] with the products of the adapters added."""
  for place in places:
    a, b = place._factors(place.params(kernel.dtype))
    kernel = kernel + lax.dot(a * place.adapter.scale, b).reshape(kernel.shape)
  return kernel


# No dropout here: what A reads is the state, which exists only inside the loop. The
# scale goes into A, so that the loop knows nothing of it.
def _around_recurrent(self, cell: recurrent_layers.Cell, call, dtype, train):
  """Returns the recurrent kernel and the bias for the loop over time."""
  kernel, bias = call(dtype, train)
  low = [place.params(dtype) | {"scale": place.adapter.scale} for place in self.places(
      cell, "recurrent_kernel", "hidden", "gates", "hidden", reads=("hidden",),
      shape=kernel.shape)]
  if low:
    # Several adapters act as one whose rank is the sum of theirs.
    kernel = cells.LowRank(
        kernel, jnp.concatenate([one["a"] * one["scale"] for one in low], axis=1),
        jnp.concatenate([one["b"] for one in low]))
  return kernel, bias


def _around_attention(
    self, layer: attention.Attention, call, x, positions, mask, slot, bias=None):
  """Puts learned keys and values before all others, as if they were in the cache."""
  config = layer.config
  heads = config.kv_heads
  width = config.head_size
  learned = [place.params(x.dtype) for place in self.places(
      layer, "key/kernel", "embed", "kv_heads", "kv", reads=("embed",),
      shape=(config.width, heads, width))
             if isinstance(place.adapter, config_adapters.Prefix)]
  if not learned:
    return call(x, positions, mask, slot, bias)
  before = {part: jnp.concatenate([one[part] for one in learned]).swapaxes(0, 1)
            for part in config_adapters.Prefix.PARTS}  # [G, P, K]
  length = before["key"].shape[1]
  # The layer puts new keys behind those of a cache, so the prefix is passed as a cache;
  # without a slot, one with room for this text is made. Every position sees the prefix,
  # and the text keeps its own positions.
  batch, room = x.shape[0], (x.shape[0], heads, x.shape[1], width)
  rest, used = ({part: jnp.zeros(room, x.dtype) for part in before}, 0
               ) if slot is None else slot
  cache = {part: jnp.concatenate(
      [jnp.broadcast_to(rows[None], (batch, *rows.shape)), rest[part]], axis=2)
           for part, rows in before.items()}
  seen = jnp.ones((*mask.shape[:2], length), bool)
  if bias is not None:  # A bias of distances, and learned keys are at none.
    bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (length, 0)))
  y, kept = call(x, positions, jnp.concatenate([seen, mask], axis=2),
                 (cache, used + length), bias)
  if slot is None:
    return y, None
  # The caller's cache holds the text alone; the prefix is put before it each time.
  return y, {part: rows[:, :, length:] for part, rows in kept.items()}


# By the exact class and method, in one look-up, since every call of every module passes
# here.
_AROUND: dict[tuple[type, str], Callable[..., Any]] = {
    (layers.Dense, "__call__"): _around_dense,
    (recurrent_layers.Affine, "__call__"): _around_affine,
    (recurrent_layers.Fan, "__call__"): _around_fan,
    (recurrent_layers.Cell, "_inputs"): _around_inputs,
    (recurrent_layers.Affine, "weights"): _around_weights,
    (recurrent_layers.Cell, "_later"): _around_later,
    (recurrent_layers.Cell, "_recurrent"): _around_recurrent,
    (attention.Attention, "__call__"): _around_attention,
}
