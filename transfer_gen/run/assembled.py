"""All that a run trains with, as far as it is assembled."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import beginnings
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

Inputs = inputs_lib.Inputs
Run, Specs = inputs_lib.Run, inputs_lib.Specs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembled:
  """A run, ready to train once `assemble.assemble` has gone through its steps.

  Attributes:
    inputs: What the run reads.
    run: Config of the run, with the vocabulary size and all that a strategy wrote.
    model: The module, with adapters and projections.
    plan: What reaches the target, and what learns.
    specs: Spec of each param of `model`; empty before the plan is resolved.
    rows: The plan leaf by leaf; empty before it is resolved.
    optimizer: What updates the leaves that learn.
    teacher: Model that the run learns from beside its data.
    beginning: Part of the model whose output is stored, so that training starts behind
      it; None if no features are.
  """
  inputs: inputs_lib.Inputs
  run: Run
  model: inputs_lib.Model
  plan: plan_lib.TransferPlan = plan_lib.SCRATCH
  specs: Specs = dataclasses.field(default_factory=dict)
  rows: Sequence[resolve.Row] = ()
  optimizer: optim_lib.Optimizer = optim_lib.NOTHING
  teacher: teacher_lib.Teacher | None = None
  beginning: beginnings.Beginning | None = None

  @property
  def data(self) -> inputs_lib.Prepared:
    """Tokenized splits."""
    return self.inputs.data

  @property
  def sources(self) -> Mapping[str, inputs_lib.Source]:
    """Checkpoints by their names in the plan."""
    return self.inputs.sources

  @property
  def source_specs(self) -> dict[str, Specs]:
    """Specs of each source."""
    return {name: source.specs for name, source in self.sources.items()}

  @property
  def constants(self) -> dict[str, Mapping[str, Any]]:
    """Constants of each source's model, and of the target's under `resolve.TARGET`."""
    found = {name: source.constants for name, source in self.sources.items()}
    return {**found, resolve.TARGET: self.inputs.constants}

  @property
  def source_tokenizers(self) -> dict[str, inputs_lib.Tokenizer]:
    """Tokenizers of the sources, if axis maps may have matched tokens by them."""
    if not self.plan.axes:
      return {}
    found = {name: source.tokenizer for name, source in self.sources.items()}
    return {name: t for name, t in found.items() if t is not None}

  def replace(self, **changes: Any) -> "Assembled":
    """Returns the same with some attributes replaced."""
    return dataclasses.replace(self, **changes)

  def with_note(self, note: str) -> "Assembled":
    """Returns the same with one more note for the user."""
    return self.replace(inputs=dataclasses.replace(
        self.inputs, notes=(*self.inputs.notes, note)))

  def resolve(self, specs: Specs) -> list[resolve.Row]:
    """Resolves the plan against the specs of a target.

    Raises:
      errors.UserError: With every misfit.
    """
    # Tokenizers of sources are large: they are opened only if a map may need them.
    vocabularies = self.inputs.vocabularies() if self.plan.axes else {}
    try:
      return resolve.resolve(
          self.plan, self.source_specs, specs, vocabularies, self.constants)
    except resolve.PlanError as error:
      # Only where tokens are matched does a source without a vocabulary matter.
      lacking = [_ask(source) for name, source in self.sources.items()
                 if source.path is not None and name not in vocabularies
                 and any(on.axis == "vocab" for on in self.plan.axes)]
      raise resolve.PlanError("\n".join([str(error), *lacking])) from error


def _ask(source: inputs_lib.Source) -> str:
  """Returns what gives a source the vocabulary that it lacks."""
  if source.view is not None:
    return inputs_lib.ask(source.path or "")
  return (f"{source.path}: no vocabulary was stored with it. If it was converted,"
          " convert it again with --tokenizer=PATH.")
