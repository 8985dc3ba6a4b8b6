"""Merges adapters into the kernels of a model, which then computes the same alone."""

from collections.abc import Mapping

import jax
from jax import lax

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import calls
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.config import adapters as config_adapters

_Adapters = tuple[config_adapters.Adapter, ...]
_Specs = Mapping[str, tree.Spec]


# A bottleneck is not linear and a prefix changes what attention sees: no kernel holds
# either. What LoRA and IA3 do is a change of kernels and biases.
def merge(
    params: Mapping[str, jax.Array], adapters: _Adapters, specs: _Specs
) -> dict[str, jax.Array]:
  """Returns params with which the module computes the same without its adapters.

  Args:
    params: Params of the module and of the adapters, flat.
    adapters: The adapters that act.
    specs: Specs of the module's own params.

  Raises:
    errors.UserError: If an adapter cannot be expressed as a change of kernels.
  """
  # Kernels change in turns, because each adapter acts on what those before it made.
  merged = {name: params[name] for name in specs}
  for adapter, name, spec in adapter_leaves.beside(adapters, specs):
    if isinstance(adapter, (config_adapters.Bottleneck, config_adapters.Prefix)):
      raise errors.UserError(
          f"{type(adapter).__name__} {adapter.name!r} cannot be merged: no kernel"
          " computes what it does. The workdir of the run holds it.")
    mine = {part: params[adapter.leaf(name, part)]
            for part in adapter_leaves.by_part(adapter, name, spec)}
    bias = name.removesuffix("kernel") + "bias"
    if isinstance(adapter, config_adapters.LoRA):
      merged[name] = _merged(adapter, merged[name], mine)
    elif adapter_leaves.scales_inputs(adapter, name):
      factor = mine["scale"]
      merged[name] *= factor.reshape(factor.shape + (1,) * (
          len(spec.shape) - factor.ndim))
    else:
      merged[name] *= mine["scale"].reshape(
          (1,) * adapter_leaves.num_inputs(spec) + mine["scale"].shape)
      # IA3 scales what the layer gives out, and the bias is part of it.
      if bias in merged:
        merged[bias] *= mine["scale"]
  return merged


def _merged(adapter, kernel, mine):
  """Returns W + A B s, with columns of the learned norms if there are any."""
  rank = adapter.rank
  # The default on accelerators multiplies in lower precision than f32, and this result
  # is stored for good.
  product = lax.dot(mine["a"].reshape(-1, rank), mine["b"].reshape(rank, -1),
                    precision="highest")
  flat = kernel.reshape(product.shape)
  moved = flat + product * adapter.scale
  if adapter.dora:
    magnitude = calls.norms(flat) + mine["magnitude"].reshape(-1)
    moved *= (magnitude / calls.norms(moved))[None]
  return moved.reshape(kernel.shape)
