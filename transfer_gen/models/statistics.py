"""How large what each layer reads is, entry by entry: activations for pruning."""

from collections.abc import Iterable, Mapping

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import tree
from transfer_gen.models import layers


def inputs(
    module: nn.Module,
    params: Mapping[str, jax.Array],
    batches: Iterable[np.ndarray],
    axis: str,
) -> dict[str, np.ndarray]:
  """Mean squares of what dense layers read along an axis.

  With `strategies.select` they say which hidden units or heads to keep: those that
  carry the most of what the next product sees.

  Args:
    module: Of `registry.build`.
    params: Flat.
    batches: i32[B, T] each, any number.
    axis: E.g. `mlp` or `heads`.

  Returns:
    By the name of the kernel that reads, e.g. `layer_0/mlp/down/kernel`: f64[S], S
    the size of the axis.
  """
  nested = tree.unflatten(params)

  @jax.jit
  def squares(tokens):
    found = {}

    def listen(call, args, kwargs, context):
      layer = context.module
      if isinstance(layer, layers.Dense) and context.method_name == "__call__":
        read = layer.axes[:len(layer.axes) - len(layer.features)]
        if axis in read:
          x = args[0].astype(jnp.float32)
          dim = x.ndim - len(read) + read.index(axis)
          found["/".join((*layer.path, "kernel"))] = jnp.square(x).mean(
              tuple(d for d in range(x.ndim) if d != dim))
      return call(*args, **kwargs)

    with nn.intercept_methods(listen):
      module.apply({"params": nested}, tokens)
    return found

  found = [jax.device_get(squares(tokens)) for tokens in batches]
  return {name: np.mean([np.asarray(one[name], np.float64) for one in found], 0)
          for name in (found[0] if found else ())}
