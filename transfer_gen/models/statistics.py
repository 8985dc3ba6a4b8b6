"""Mean squares of what each layer reads, which say what pruning should keep."""

from collections.abc import Iterable, Mapping

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import tree
from transfer_gen.models import blocks
from transfer_gen.models import layers
from transfer_gen.models import registry


# Layers are intercepted, so that no model has to return what its layers read for this
# one use. Only means leave the device: activations are as large as a forward pass.
def inputs(
    module: nn.Module,
    params: Mapping[str, jax.Array],
    batches: Iterable[Mapping[str, np.ndarray]],
    axis: str,
) -> dict[str, np.ndarray]:
  """Returns the mean squares of what dense layers read, along an axis.

  With `transfer.importance.by_scores` they decide which hidden units or heads to keep:
  the ones that contribute most to the next product.

  Args:
    module: What `registry.build` returned.
    params: Params, flat by name.
    batches: Any number of batches, of which only what the model reads counts, such as
      `inputs` i32[B, T].
    axis: Logical axis, e.g. `mlp` or `heads`.

  Returns:
    f64[S] by the name of the kernel that reads, e.g. `layer_0/mlp/down/kernel`, where S
    is the size of the axis.
  """
  nested = tree.unflatten(params)

  @jax.jit
  def squares(batch):
    found = {}

    def listen(call, args, kwargs, context):
      layer = context.module
      if isinstance(layer, blocks.Block) and context.method_name == "__call__":
        # Recorded values must not come from inside of `remat.again`.
        return layer.compute(*args, **kwargs)
      if isinstance(layer, layers.Dense) and context.method_name == "__call__":
        read = layer.axes[:len(layer.axes) - len(layer.features)]
        if axis in read:
          x = args[0].astype(jnp.float32)
          dim = x.ndim - len(read) + read.index(axis)
          found["/".join((*layer.path, "kernel"))] = jnp.square(x).mean(
              tuple(d for d in range(x.ndim) if d != dim))
      return call(*args, **kwargs)

    with nn.intercept_methods(listen):
      module.apply({"params": nested}, batch["inputs"], **registry.reads(batch))
    return found

  found = [jax.device_get(squares(dict(batch))) for batch in batches]
  return {name: np.mean([np.asarray(one[name], np.float64) for one in found], 0)
          for name in (found[0] if found else ())}
