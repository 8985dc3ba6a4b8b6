"""A module with params beside its own, used in the module's place."""

from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any, Protocol

from flax import linen as nn
import jax

from transfer_gen import tree

_Specs = Mapping[str, tree.Spec]


# A protocol, because the adapters that implement it import the models: this folder
# cannot import them in turn.
class Addition(Protocol):
  """Params that stand beside those of a module, and what they do to its calls."""

  def added(self, specs: _Specs) -> dict[str, tree.Spec]:
    """Specs of the params by name.

    Args:
      specs: Specs of the module's own params.

    Raises:
      errors.UserError: If the addition does not fit the module.
    """
    ...

  def init(self, key: jax.Array, specs: _Specs) -> dict[str, tree.Axes]:
    """Initial values of the params, in boxes, by name.

    Args:
      key: The key that the module is initialized with.
      specs: Specs of the module's own params.
    """
    ...

  def around(self, train: bool) -> contextlib.AbstractContextManager[Any]:
    """A context in which the module computes with the params.

    Args:
      train: Whether dropout acts.
    """
    ...


# Frozen and so hashable, because it takes the module's place as a static argument of
# jit and as a key of the caches in `registry`.
@dataclasses.dataclass(frozen=True)
class Extended:
  """A module with additions.

  It is no Linen module itself: it runs one under the contexts of its additions, so that
  the names of the module's own params stay what they are.

  Attributes:
    module: A module that `registry.build` returned.
    additions: What stands beside its params.
  """
  module: nn.Module
  additions: tuple[Addition, ...]

  @property
  def config(self) -> Any:
    """Config of the module."""
    return self.module.config

  def init(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
    """As `nn.Module.init`; the module's own params do not depend on the additions."""
    variables = self.module.init(key, *args, **kwargs)
    # Specs of the module alone: an addition stands beside the module's kernels and
    # never beside the params of another addition.
    specs = tree.specs(variables["params"])
    params = tree.flatten(variables["params"])
    for addition in self.additions:
      params |= addition.init(key, specs)
    return {**variables, "params": tree.unflatten(params)}

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """As `nn.Module.apply`; dropout acts if `train` is a keyword, and True."""
    with contextlib.ExitStack() as stack:
      for addition in self.additions:
        stack.enter_context(addition.around(kwargs.get("train", False)))
      return self.module.apply(variables, *args, **kwargs)

  def added(self, specs: _Specs) -> dict[str, tree.Spec]:
    """Specs of the params of all additions; `specs` are those of the module."""
    found: dict[str, tree.Spec] = {}
    for addition in self.additions:
      found |= addition.added(specs)
    return found


Model = nn.Module | Extended


# Additions are collected flat, in order, instead of wrapping one `Extended` in another:
# `module` is then always the Linen module itself.
def extend(model: Model, addition: Addition) -> Extended:
  """Returns a model with one more addition."""
  if isinstance(model, Extended):
    return Extended(model.module, (*model.additions, addition))
  return Extended(model, (addition,))
