"""The params of a model alone, with the adapters of its run merged into them."""

import jax

from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.adapters import merge
from transfer_gen.maps import shipped
from transfer_gen.models import registry

Source = sources.Source
NO_TOKENIZER = "No tokenizer was written: the checkpoint was read without one."


def left_out(source: sources.Source) -> tuple[str, ...]:
  """Returns a sentence on weights of a checkpoint that no model here has, if any."""
  names = shipped.kept(source.view)
  return (("Left out, because they belong to outputs that no model here has:"
           f" {', '.join(names)}."),) if names else ()


def specs(source: sources.Source) -> dict[str, tree.Spec]:
  """Specs of the model's own leaves, without those of adapters."""
  if not source.adapters:
    return dict(source.specs)
  assert source.model is not None  # Adapters adapt one.
  return registry.specs(registry.build(source.model))


def params(source: sources.Source) -> dict[str, jax.Array]:
  """Reads all leaves of the model; its adapters are merged into them.

  Raises:
    errors.UserError: If an adapter cannot be merged into a kernel.
  """
  found = dict(source.read(list(source.specs)))
  if not source.adapters:
    return found
  return merge.merge(found, source.adapters, specs(source))
