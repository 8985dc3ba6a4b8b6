"""A first plan for a run that has none, as Python for its config file."""

import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.adapters import wrap as adapters
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import suggest


def snippet(run: config_lib.Run, workdir: str) -> str:
  """Returns a plan as Python, with the misfits that remain as comments.

  Args:
    run: The run. A plan or strategy that it has is not looked at.
    workdir: A tokenizer that was saved here is used again; nothing is written.

  Raises:
    errors.UserError: If the run has no source, or is wrong for another reason than its
      plan.
  """
  source = run.source
  if source is None:
    raise errors.UserError("plan --suggest needs a source in the config.")
  suggested: list[plan_lib.TransferPlan] = []

  def transfer(final: config_lib.Run) -> plan_lib.TransferPlan:
    suggested.append(suggest.plan(
        assemble.open_source("", source).specs,
        registry.specs(adapters.wrap(registry.build(final.model), final.adapters))))
    return suggested[0]

  # The suggestion is made while the run is assembled, because only then is the size of
  # the vocabulary known; and assembling shows whether it fits.
  trial = dataclasses.replace(
      run, transfer=transfer, strategy=config_lib.Strategy())
  try:
    assemble.build(trial, workdir)
  except resolve.PlanError as error:
    return suggest.snippet(suggested[0], [str(error)])
  return suggest.snippet(suggested[0])
