"""What a checkpoint says of its params beside the arrays."""

from typing import Any

from transfer_gen import checkpoint
from transfer_gen.adapters import scales
from transfer_gen.models import registry
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.transfer import plan as plan_lib


def describe(assembled: assembled_lib.Assembled) -> dict[str, Any]:
  """What a checkpoint says of its params, for those who transfer from it."""
  return {"axes": checkpoint.axes_facts(assembled.specs),
          "constants": registry.constants(assembled.run.model),
          "scales": scales.scales(assembled.run.adapters, tuple(assembled.specs)),
          "plan": plan_lib.fingerprint(assembled.plan)}
