"""A run while it is assembled."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
  """A run as far as it is assembled; each step returns a draft with more in it.

  Attributes:
    inputs: What the run reads.
    run: Its config, with all that a strategy has written so far.
    plan: What reaches the target, and what learns.
    module: The model, with adapters and projections as far as they were added.
    specs: Spec of each param of `module`, once the plan is resolved.
    rows: The plan leaf by leaf, once it is resolved.
    teacher: Model that the run learns from beside its data.
    first_layer: Layer that training starts from if features are stored; 0 if not.
    optimizer: What updates the leaves that learn.
  """
  inputs: inputs_lib.Inputs
  run: config_lib.Run
  plan: plan_lib.TransferPlan
  module: Any
  specs: Mapping[str, tree.Spec] = dataclasses.field(default_factory=dict)
  rows: Sequence[resolve.Row] = ()
  teacher: teacher_lib.Teacher | None = None
  first_layer: int = 0
  optimizer: optim_lib.Optimizer | None = None

  def replace(self, **changes: Any) -> "Draft":
    """Returns the draft with some attributes replaced."""
    return dataclasses.replace(self, **changes)

  def resolve(self, specs: Mapping[str, tree.Spec]) -> list[resolve.Row]:
    """Resolves the plan against the specs of a target.

    Raises:
      errors.UserError: With every misfit.
    """
    sources = self.inputs.sources
    return resolve.resolve(
        self.plan, {name: source.specs for name, source in sources.items()}, specs,
        self.inputs.vocabularies() if self.plan.axes else {},
        {**{name: source.constants for name, source in sources.items()},
         resolve.TARGET: self.inputs.constants})
