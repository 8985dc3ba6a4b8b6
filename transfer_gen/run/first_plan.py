"""A first plan for a run that has none, as Python for its config file."""

import dataclasses

from transfer_gen import errors
from transfer_gen.adapters import wrap
from transfer_gen.run import assemble
from transfer_gen.run import reader as reader_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import suggest


def snippet(run: reader_lib.Run, workdir: str) -> str:
  """Returns a plan as Python, with the misfits that remain as comments.

  Args:
    run: The run. A plan or strategy that it has is not looked at.
    workdir: A tokenizer that was saved here is used again; nothing is written.

  Raises:
    errors.UserError: If the run has no source, or is wrong for another reason than its
      plan.
  """
  if run.source is None:
    raise errors.UserError("plan --suggest needs a source in the config.")
  # A plan or strategy of the run could raise misfits of its own, which are not about
  # the suggestion.
  trial = dataclasses.replace(
      run, transfer=None, strategy=type(run.strategy)())
  inputs = reader_lib.Reader().read(trial, workdir)
  plan = suggest.plan(
      inputs.sources[""].specs, wrap.specs(inputs.run.model, run.adapters))
  try:
    # Only assembling shows whether the suggestion fits as it is.
    assemble.assemble(inputs.with_run(dataclasses.replace(trial, transfer=plan)))
  except resolve.PlanError as error:
    return suggest.snippet(plan, [str(error)])
  return suggest.snippet(plan)
