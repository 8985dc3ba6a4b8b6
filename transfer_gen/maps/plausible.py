"""Checks whether the sizes that a checkpoint claims for its model can be true."""

import math
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.maps import architecture
from transfer_gen.models import registry

_LAYERS = ("num_layers", "encoder_layers")
_SIZES = ("width", "token_types", "num_heads", "num_kv_heads", "head_dim", "rotary_dim",
          "sinusoid_width", "relative_buckets")


def specs(raw: architecture.Raw, model: Any, name: str) -> dict[str, tree.Spec]:
  """Checks the model that a map made of a checkpoint's config, and returns its specs.

  Args:
    raw: The checkpoint.
    model: Config of our model.
    name: Name or path of the map.

  Raises:
    errors.UserError: If a field has a value that it does not declare, or claims
      more layers or a larger size than the checkpoint has numbers for.
  """
  # First, since sizes are compared next.
  config_lib.check(model, f"{raw.path}: model")
  _check_sizes(raw, model)
  with architecture.understood(raw, f"model of map {name}"):
    return registry.specs(registry.build(model))


def _check_sizes(raw: architecture.Raw, model: Any) -> None:
  """Checks sizes, since a few bytes could claim a model that fills all memory."""
  if (own := getattr(model, "encoder", None)) and not isinstance(own, bool):
    _check_sizes(raw, own)
  # Each of these sizes is a dimension of some tensor, or less, so no honest one is
  # larger than the numbers of the largest.
  largest = max((math.prod(spec.shape) for spec in raw.specs.values()), default=0)
  for names, most, what in ((_LAYERS, len(raw.specs), "tensors"),
                            (_SIZES, largest, "numbers in its largest tensor")):
    for name in names:
      if (value := getattr(model, name, 0)) > most:
        raise errors.UserError(
            f"{raw.path}: model.{name} would be {value}, and the checkpoint has {most}"
            f" {what}.")
