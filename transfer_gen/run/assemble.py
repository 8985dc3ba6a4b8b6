"""From what a run reads to all that it trains with, decided before an array is read."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import inspect
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import sources as sources_lib
from transfer_gen import tree
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import registry
from transfer_gen.run import add_adapters
from transfer_gen.run import add_features
from transfer_gen.run import add_optimizer
from transfer_gen.run import add_strategy
from transfer_gen.run import add_teacher
from transfer_gen.run import checks
from transfer_gen.run import draft as draft_lib
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import strategies
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve


def _resolve(draft: draft_lib.Draft) -> draft_lib.Draft:
  specs = registry.specs(draft.module)
  return draft.replace(specs=specs, rows=draft.resolve(specs))


# What contributes to a run, in order. Those before `_resolve` may change the config, the
# plan and the module; those after it see the rows.
STEPS: tuple[Callable[[draft_lib.Draft], draft_lib.Draft], ...] = (
    add_strategy.write, add_adapters.wrap, add_teacher.add, _resolve,
    add_adapters.check_scales, add_features.find_first_layer, add_optimizer.build)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembled:
  """All that a run trains with.

  Attributes:
    run: Config of the run, with the vocabulary size and all that a strategy wrote.
    data: Tokenized splits.
    model: The module, with adapters and projections.
    specs: Spec of each param.
    plan: What reaches the target, and what learns.
    rows: The plan leaf by leaf.
    sources: Checkpoints by their names in the plan.
    optimizer: What updates the leaves that learn.
    first_layer: Layer that training starts from if features are stored; 0 if not.
    teacher: Model that the run learns from beside its data.
  """
  run: config_lib.Run
  data: pipeline.Prepared
  model: Any
  specs: Mapping[str, tree.Spec]
  plan: plan_lib.TransferPlan
  rows: Sequence[resolve.Row]
  sources: Mapping[str, sources_lib.Source]
  optimizer: optim_lib.Optimizer
  first_layer: int
  teacher: teacher_lib.Teacher | None

  @property
  def source_specs(self) -> dict[str, Mapping[str, tree.Spec]]:
    """Specs of each source."""
    return {name: source.specs for name, source in self.sources.items()}

  @property
  def source_tokenizers(self) -> dict[str, tokenizers.Tokenizer]:
    """Tokenizers of the sources, if axis maps may have matched tokens by them."""
    found = {name: source.tokenizer for name, source in self.sources.items()
             if self.plan.axes}
    return {name: t for name, t in found.items() if t is not None}


def build(run: config_lib.Run, workdir: epath.PathLike) -> Assembled:
  """Reads the inputs of one run and assembles it; writes nothing.

  Args:
    run: Config of the run.
    workdir: If a tokenizer was saved here, it is used again.

  Raises:
    errors.UserError: If something in the config does not exist or does not fit.
  """
  return assemble(inputs_lib.Reader().read(run, workdir))


def assemble(inputs: inputs_lib.Inputs) -> Assembled:
  """Builds the model, resolves the plan and makes the optimizer; reads no array.

  Raises:
    errors.UserError: If something in the config does not fit what was read.
  """
  run = inputs.run
  checks.check(run)  # The run may be another than the one that was read for.
  draft = draft_lib.Draft(
      inputs=inputs, run=run, plan=_plan(inputs), module=registry.build(run.model))
  for step in STEPS:
    draft = step(draft)
  assert draft.optimizer is not None, "add_optimizer is among the steps"
  return Assembled(
      run=draft.run, data=inputs.data, model=draft.module, specs=draft.specs,
      plan=draft.plan, rows=draft.rows, sources=inputs.sources,
      optimizer=draft.optimizer, first_layer=draft.first_layer, teacher=draft.teacher)


def _plan(inputs: inputs_lib.Inputs) -> plan_lib.TransferPlan:
  """The plan of the run as the user wrote it, or the one that its strategy needs."""
  run, plan = inputs.run, inputs.run.transfer
  if callable(plan):
    # A function of two arguments also gets the vocabularies, for mixtures of rows.
    several = len(inspect.signature(plan).parameters) > 1
    plan = plan(run, inputs.vocabularies()) if several else plan(run)
  if run.strategy.name:
    source = inputs.sources.get("")
    return strategies.base(
        run, plan, matches=source is not None and source.tokenizer is not None)
  return plan_lib.SCRATCH if plan is None else plan
