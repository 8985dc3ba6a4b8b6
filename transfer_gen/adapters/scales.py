"""Factors on low-rank products, in a model and in its sources."""

from collections.abc import Mapping, Sequence
import math

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import resolve

_Adapters = tuple[config_adapters.Adapter, ...]


def scales(adapters: _Adapters, names: Sequence[str]) -> dict[str, float]:
  """Returns the factor on each low-rank product at run time, by the leaves' names.

  A leaf of another run has the same effect only if its factor is the same.

  >>> lora = config_adapters.LoRA(name="style", params=".*", rank=4)
  >>> scales((lora,), ["up/kernel", "up/style_a"]) == {"up/style_a": lora.scale}
  True
  """
  return {name: adapter.scale for adapter in adapters for name in names
          if isinstance(adapter, config_adapters.LoRA)
          and tree.match([adapter.leaves], name)}


# Checkpoints store A and B without the factor on their product. With another alpha,
# copied leaves would compute something else, and no shape would show it.
def check(
    rows: Sequence[resolve.Row], own: Mapping[str, float],
    theirs: Mapping[str, Mapping[str, float]]) -> None:
  """Checks that low-rank products have the same scale here and in their source.

  Args:
    rows: What `resolve` returned.
    own: What `scales` returned for the run.
    theirs: The same for each source, by its name in the plan.

  Raises:
    errors.UserError: If a scale differs.
  """
  for row in rows:
    for source in row.sources if row.name in own else ():
      # A source that states no scale for the leaf cannot be compared.
      scale = theirs[row.checkpoint].get(source, own[row.name])
      if not math.isclose(scale, own[row.name], rel_tol=1e-6):
        raise errors.UserError(
            f"{row.name}: the product of its adapter is multiplied with"
            f" {own[row.name]:g}, and that of {source} in its source with {scale:g}."
            " Set rank, alpha and scaling so that both are the same.")


def has_dropout(adapters: _Adapters) -> bool:
  """Returns whether any of the adapters has dropout in training."""
  return any(isinstance(adapter, config_adapters.LoRA) and adapter.dropout > 0
             for adapter in adapters)
