"""The facts that a checkpoint holds of its params, beside the arrays."""

from typing import Any

from transfer_gen import checkpoint
from transfer_gen.adapters import scales
from transfer_gen.models import registry
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.transfer import plan as plan_lib


def describe(assembled: assembled_lib.Assembled) -> dict[str, Any]:
  """Returns what a checkpoint stores of its params, for a transfer from it.

  Returns:
    `axes` (axes of each leaf), `constants` (what the model computes beside its params),
    `scales` (factor of each low-rank product) and `plan` (fingerprint of the plan).
  """
  return {"axes": checkpoint.axes_facts(assembled.specs),
          "constants": registry.constants(assembled.run.model),
          "scales": scales.scales(assembled.run.adapters, tuple(assembled.specs)),
          "plan": plan_lib.fingerprint(assembled.plan)}
