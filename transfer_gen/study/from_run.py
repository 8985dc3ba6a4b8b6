"""The study of a single run: is its source worth it?"""

import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.transfer import plan as plan_lib

TRANSFER, SCRATCH = "transfer", "scratch"


def study(run: config_lib.Run) -> config_lib.Study:
  """Returns the study that compares a run with the same run from scratch.

  Both have the same model, tokenizer, data and schedule. The run from scratch opens the
  source only to know these, and reads none of its leaves.

  Args:
    run: Config of a run with a source.

  Raises:
    errors.UserError: If the run has no source.
  """
  if not run.all_sources():
    raise errors.UserError(
        "The run has no source, so there is nothing to compare it with: set"
        " source.path, or write a function get_study.")
  path = next(iter(run.all_sources().values())).path
  return config_lib.Study(
      question=f"Is it worth it to start from {path}?",
      runs={TRANSFER: run, SCRATCH: scratch(run)}, pairs=((TRANSFER, SCRATCH),))


def scratch(run: config_lib.Run) -> config_lib.Run:
  """Returns the run that opens the same sources and reads none of their leaves."""
  # Leaves of a source that nobody reads are an error unless the plan names them.
  plan = dataclasses.replace(plan_lib.SCRATCH, unused_source=(".*",))
  return dataclasses.replace(
      run, transfer=plan, strategy=config_lib.Strategy(), adapters=(), features=None,
      distill=None)


def alone(run: config_lib.Run) -> config_lib.Run:
  """Returns the run from scratch that opens no source at all."""
  return dataclasses.replace(
      scratch(run), source=None, sources={}, transfer=None)
