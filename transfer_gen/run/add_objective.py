"""A teacher is opened, and what the terms of the loss need is looked for."""

from transfer_gen import errors
from transfer_gen.models import registry
from transfer_gen.run import add_teacher
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.transfer import plan as plan_lib


def add(assembled: assembled_lib.Assembled) -> assembled_lib.Assembled:
  """Opens the teacher if there is one, and checks the objective; reads no array.

  Raises:
    errors.UserError: If the teacher and the model do not go together, or a term needs
      what model or data do not give.
  """
  assembled = add_teacher.add(assembled)
  run, groups = assembled.run, assembled.plan.groups
  combined.check(
      run.objective, run.train.steps, any(isinstance(
          group.anchor, (plan_lib.L2SP, plan_lib.EWC)) for group in groups),
      run.distill)
  _check_needs(assembled)
  if run.model.draws and not run.objective.kl.is_used:
    raise errors.UserError(
        "The model draws its latent, and objective.kl, which keeps what it draws from"
        " near the prior, has a weight of 0. Set objective.kl.weight=1; or for an"
        " autoencoder without a prior model.variational=False.")
  return assembled


def _check_needs(assembled: assembled_lib.Assembled) -> None:
  """Compares what terms read with what the model gives and the batches hold."""
  kinds = {name: kind for name, kind in combined.used(assembled.run.objective).items()
           if kind.outputs or kind.entries}
  if not kinds:
    return
  batch = next(assembled.data.evaluation_batches("train", 1))
  # Asked of the model itself, by its shapes: a list of what it gives could be wrong.
  given = combined.given(assembled.model, registry.specs(assembled.model), batch)
  wrong = [text for name, kind in kinds.items() for text in (
      _lacks(name, "the model does not give", kind.outputs, given),
      _lacks(name, "the data do not have", kind.entries, batch)) if text]
  if wrong:
    raise errors.UserError(
        "The objective does not fit: " + ";\n  ".join(wrong) + ". Give these terms a"
        " weight of 0, or choose a model and data with what they need.")


def _lacks(name, has, needed, found) -> str:
  missing = [one for one in needed if one not in found]
  return f"objective.{name} needs {', '.join(missing)}, which {has}" if missing else ""
