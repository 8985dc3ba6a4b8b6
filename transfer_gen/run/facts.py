"""The facts that a checkpoint holds of its params, beside the arrays."""

from collections.abc import Mapping
from typing import Any

from transfer_gen import checkpoint
from transfer_gen import errors
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


def check_plan(facts: Mapping[str, Any], assembled: assembled_lib.Assembled) -> None:
  """Checks that a checkpoint was written under the plan of a run.

  Args:
    facts: What `describe` returned when it was written.
    assembled: The run.

  Raises:
    errors.UserError: If it was written under another.
  """
  if facts["plan"] != plan_lib.fingerprint(assembled.plan):
    raise errors.UserError(
        "The newest checkpoint of the workdir was written under another plan than that"
        " of its plan.json. Take another --workdir, or the plan that it began with.")
