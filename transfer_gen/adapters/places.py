"""Checks that adapters can act on all the kernels that they name."""

from collections.abc import Mapping, Sequence

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import names

_Adapters = tuple[config_adapters.Adapter, ...]
_Specs = Mapping[str, tree.Spec]


def check(adapters: _Adapters, specs: _Specs) -> None:
  """Checks adapters against the kernels of a model.

  Args:
    adapters: The adapters, in the order in which they act.
    specs: Specs of the model's own params.

  Raises:
    errors.UserError: If an adapter matches no kernel or one on which it cannot act, or
      if two have the same name.
  """
  kernels = [n for n, spec in specs.items() if adapter_leaves.is_kernel(n, spec)]
  given = [adapter.name for adapter in adapters]
  for adapter in adapters:
    described = f"{type(adapter).__name__} {adapter.name!r}"
    if given.count(adapter.name) > 1:
      raise errors.UserError(f"Two adapters are called {adapter.name!r}. Set name=.")
    # Each pattern by itself: IA3's `params` may match while its `inputs` have a typo.
    for field in ("params", "inputs"):
      pattern = getattr(adapter, field, None)
      if pattern is not None and not any(tree.match([pattern], n) for n in kernels):
        raise errors.UserError(
            f"{described}: {field}={pattern!r} matches no kernel. There are"
            f" {', '.join(tree.fold(kernels))}.")
    mine = [name for name in kernels if adapter_leaves.acts(adapter, name)]
    _check_places(described, adapter, adapters, mine, kernels)


# A layer of several inputs adds their products up inside, where an adapter that acts on
# the layer's result has no place beside one of its kernels. Nor has it inside a loop,
# which is given kernels and multiplies by itself.
def _check_places(
    described, adapter, adapters, mine: Sequence[str], kernels: Sequence[str]) -> None:
  """Checks that an adapter can act on all kernels that it matches."""
  wrong, why = [], ""
  shared = [name for name in mine if (
      not name.endswith("/kernel") or tree.match([names.LOOP_KERNEL], name)
      or any(other.startswith(f"{name}_") for other in kernels))]
  if isinstance(adapter, config_adapters.Prefix):
    wrong = [n for n in mine if tree.match([names.KEY_KERNEL], n) is None]
    why = "is no kernel of keys that a layer has of its own text"
  elif not isinstance(adapter, config_adapters.LoRA):
    wrong = shared
    why = "is one of several in its layer or part of a loop, where LoRA alone can stand"
  # DoRA divides by norms of the layer's own kernel (Liu et al., 2024). An adapter that
  # acts before it changes the product without changing that kernel.
  elif adapter.dora:
    before = adapters[:adapters.index(adapter)]
    wrong = [name for name in mine if name in shared or any(
        adapter_leaves.acts(other, name) for other in before)]
    why = ("is one of several in its layer or part of a loop, or another adapter stands"
           " before; dora takes the norms of a layer's only kernel as it is")
  if wrong:
    raise errors.UserError(f"{described}: {', '.join(tree.fold(wrong))} {why}.")
