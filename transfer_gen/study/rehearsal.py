"""Assembles each run of a study before the first one trains."""

from collections.abc import Callable, Sequence
import dataclasses

from transfer_gen import errors
from transfer_gen.run import assemble
from transfer_gen.run import untrained
from transfer_gen.study import auto
from transfer_gen.study import from_run
from transfer_gen.study import jobs as jobs_lib


def rehearse(
    jobs: Sequence[jobs_lib.Job], reader: assemble.reader.Reader,
    advance: Callable[[], object],
) -> dict[str, assemble.Assembled]:
  """Assembles a training of each run: its vocabulary, plan, lengths and optimizer fit.

  Runs of the study that others read are replaced by what is known of them before they
  train. A plan that depends on their values can be checked only later.

  Args:
    jobs: All trainings of the study, sources first.
    reader: Has read the texts; keeps what is tokenized here.
    advance: Is called after each run.

  Returns:
    The runs by name, each with the seed and rate of its first training.

  Raises:
    errors.UserError: If something does not fit, with the name of the run.
  """
  found: dict[str, assemble.Assembled] = {}
  try:
    for job in jobs:
      if job.name not in found:
        with errors.naming(f"run {job.name!r}"):
          found[job.name] = _assembled(job, reader)
        advance()
        reader.known[str(job.workdir)] = untrained.Untrained(
            found[job.name], job.workdir)
  finally:
    reader.known.clear()  # From here on, checkpoints are what counts.
  return found


def _assembled(job: jobs_lib.Job, reader) -> assemble.Assembled:
  run = auto.decided(job.run, job.workdir)
  given = dataclasses.replace(
      run, source=run.source and _known(run.source, reader),
      sources={name: _known(source, reader) for name, source in run.sources.items()})
  try:
    return assemble.assemble(reader.read(given, job.workdir))
  except (errors.UserError, OSError) as error:
    # A function that writes a plan may read values, and a teacher is a checkpoint. A
    # plan that does not fit is an error of another class.
    if isinstance(error, errors.UserError) and type(error) is not errors.UserError:
      raise
    if not any(path in str(error) for path in reader.known):
      raise
  return assemble.assemble(reader.read(from_run.scratch(given), job.workdir))


def _known(source, reader):
  """A source without its moments, which are not known before it trains."""
  return dataclasses.replace(source, moments=False) if (
      source.path in reader.known) else source
