"""Models with adapters: small params beside the kernels of an unchanged module.

`Adapted` runs a module under `nn.intercept_methods`. Around each layer that has a
kernel which an adapter names, it does what the adapter does, with params that it puts
beside that kernel: leaves of the model like any other, with axes, rows and groups.

LoRA stands beside every kernel: those of dense layers, and of recurrent cells for
inputs and state alike. IA3 and bottlenecks stand around layers that read one input,
prefixes before the keys of a Decoder. Learned tokens before the text (prompt tuning,
Lester et al., 2021) do not come this way, for they make texts longer: rows that are
added to the vocabulary, stand before each text and learn alone (`Group.table_rows`)
are the same.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any
import zlib

from flax import linen as nn
import jax
from jax import lax

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import calls
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import resolve

_Adapters = tuple[config_adapters.Adapter, ...]
_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True)
class Adapted:
  """A module with adapters, to be used in the module's place.

  Attributes:
    module: What `registry.build` returned.
    adapters: The adapters that act on it, in order: each acts around all before it.
  """
  module: nn.Module
  adapters: _Adapters

  @property
  def config(self) -> Any:
    """The config of the module."""
    return self.module.config

  def init(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
    """As `nn.Module.init`, with the adapters' params; the module's own are the same."""
    variables = self.module.init(key, *args, **kwargs)
    added = {name: leaf.draw(jax.random.fold_in(key, zlib.crc32(name.encode())))
             for name, leaf in self._leaves(tree.specs(variables["params"])).items()}
    return {**variables, "params": tree.unflatten(
        tree.flatten(variables["params"]) | added)}

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """As `nn.Module.apply`. Dropout acts where `train` is a keyword, and True."""
    train = kwargs.get("train", False)
    with nn.intercept_methods(calls.Interceptor(self.adapters, train)):
      return self.module.apply(variables, *args, **kwargs)

  def added(self, specs: _Specs) -> dict[str, tree.Spec]:
    """Specs of the adapters' leaves.

    Args:
      specs: Those of the module's.

    Raises:
      errors.UserError: If an adapter matches no kernel or one where it cannot stand,
        or if two have one name.
    """
    _check(self.adapters, specs)
    return tree.specs({
        name: leaf.box() for name, leaf in self._leaves(specs).items()})

  def _leaves(self, specs):
    return {adapter.leaf(name, part): leaf
            for adapter, name, spec in adapter_leaves.beside(self.adapters, specs)
            for part, leaf in adapter_leaves.by_part(adapter, name, spec).items()}


def wrap(
    module: nn.Module, adapters: Sequence[config_adapters.Adapter]
) -> nn.Module | Adapted:
  """The module with adapters; without any, the module itself."""
  return Adapted(module, tuple(adapters)) if adapters else module


def has_dropout(adapters: _Adapters) -> bool:
  """Whether any of the adapters has dropout in training."""
  return any(isinstance(adapter, config_adapters.LoRA) and adapter.dropout > 0
             for adapter in adapters)


def scales(adapters: _Adapters, names: Sequence[str]) -> dict[str, float]:
  """What a product of low rank is multiplied with at run time, by the leaves' names.

  A leaf of another run means the same only where this is the same.
  """
  return {name: adapter.scale for adapter in adapters for name in names
          if isinstance(adapter, config_adapters.LoRA)
          and tree.match([adapter.leaves], name)}


def check_scales(
    rows: Sequence[resolve.Row], own: Mapping[str, float],
    theirs: Mapping[str, Mapping[str, float]]) -> None:
  """Refuses low-rank leaves whose product has another scale in their source.

  Args:
    rows: What `resolve` returned.
    own: What `scales` returned for the run.
    theirs: The same for each source, by its name in the plan.

  Raises:
    errors.UserError: If a scale differs.
  """
  for row in rows:
    for source in row.sources if row.name in own else ():
      scale = theirs[row.checkpoint].get(source, own[row.name])
      if not math.isclose(scale, own[row.name], rel_tol=1e-6):
        raise errors.UserError(
            f"{row.name}: the product of its adapter is multiplied with"
            f" {own[row.name]:g}, and that of {source} in its source with {scale:g}."
            " Set rank, alpha and scaling so that both are the same.")


def merge(
    params: Mapping[str, jax.Array], adapters: _Adapters, specs: _Specs
) -> dict[str, jax.Array]:
  """Returns params with which the module alone computes what it does with adapters.

  Args:
    params: Params of the module and of the adapters, flat.
    adapters: The adapters that act.
    specs: Specs of the module's own params.

  Raises:
    errors.UserError: If an adapter cannot be expressed as a change of kernels.
  """
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
      if bias in merged:
        merged[bias] *= mine["scale"]
  return merged


def _merged(adapter, kernel, mine):
  """W + A B s, its columns brought to the learned norms where there are any."""
  rank = adapter.rank
  product = lax.dot(mine["a"].reshape(-1, rank), mine["b"].reshape(rank, -1),
                    precision="highest")
  flat = kernel.reshape(product.shape)
  moved = flat + product * adapter.scale
  if adapter.dora:
    magnitude = calls.norms(flat) + mine["magnitude"].reshape(-1)
    moved *= (magnitude / calls.norms(moved))[None]
  return moved.reshape(kernel.shape)


def _check(adapters, specs: _Specs) -> None:
  kernels = [n for n, spec in specs.items() if adapter_leaves.is_kernel(n, spec)]
  names = [adapter.name for adapter in adapters]
  for adapter in adapters:
    described = f"{type(adapter).__name__} {adapter.name!r}"
    if names.count(adapter.name) > 1:
      raise errors.UserError(f"Two adapters are called {adapter.name!r}. Set name=.")
    for field in ("params", "inputs"):
      pattern = getattr(adapter, field, None)
      if pattern is not None and not any(tree.match([pattern], n) for n in kernels):
        raise errors.UserError(
            f"{described}: {field}={pattern!r} matches no kernel. There are"
            f" {', '.join(tree.fold(kernels))}.")
    mine = [name for name in kernels if adapter_leaves.acts(adapter, name)]
    _check_places(described, adapter, adapters, mine)


def _check_places(described, adapter, adapters, mine: Sequence[str]) -> None:
  """Whether an adapter can stand at all kernels that it matches."""
  wrong, why = [], ""
  if isinstance(adapter, config_adapters.Prefix):
    wrong = [n for n in mine if tree.match([r"(.*/)?attn/key/kernel"], n) is None]
    why = "is no kernel of keys that a layer has of its own text"
  elif not isinstance(adapter, config_adapters.LoRA):
    wrong = [name for name in mine if not name.endswith("/kernel")]
    why = "is one of several in its layer, where LoRA alone can stand"
  elif adapter.dora:
    before = adapters[:adapters.index(adapter)]
    wrong = [name for name in mine if not name.endswith("/kernel") or any(
        adapter_leaves.acts(other, name) for other in before)]
    why = ("is one of several in its layer, or another adapter stands before; dora"
           " takes the norms of a layer's only kernel as it is")
  if wrong:
    raise errors.UserError(f"{described}: {', '.join(tree.fold(wrong))} {why}.")
