"""Whether the workdirs of a study belong to the runs that it has now."""

from collections.abc import Sequence
import itertools

from etils import epath

from transfer_gen import errors
from transfer_gen.run import assemble
from transfer_gen.run import ownership
from transfer_gen.run import plan_files
from transfer_gen.study import auto
from transfer_gen.study import jobs as jobs_lib


def check(
    jobs: Sequence[jobs_lib.Job], reader: assemble.reader.Reader, force: bool
) -> set[str]:
  """Checks each workdir that an earlier call has begun.

  Args:
    jobs: All trainings of the study, sources first.
    reader: Has read their texts.
    force: Whether the workdirs of changed runs, and of all that start from them, are
      renamed, so that these train anew.

  Returns:
    The workdirs that belong to their trainings. One whose source is not there any more
    is not among them, as it cannot be checked.

  Raises:
    errors.UserError: If one belongs to another run, and what differs; without `force`.
  """
  begun, renamed = set(), set()
  made = {str(job.workdir) for job in jobs}
  for job in jobs:
    if not ownership.is_claimed(job.workdir):
      continue
    read = {source.path for source in jobs_lib.read_by(job.run)} & made
    try:
      if read & renamed:
        raise _Changed(f"{job.title}: {', '.join(sorted(read & renamed))} trains anew.")
      if not all(map(ownership.is_claimed, read)):
        continue
      _check(job, reader)
    except _Changed as error:
      if not force:
        raise errors.UserError(
            f"{error}\nOr give --force: it trains the run anew, and keeps the old one"
            " under another name.") from error
      renamed.add(str(job.workdir))
      print(f"{job.title}: the old run is {_keep(job.workdir)} now.", flush=True)
    else:
      begun.add(str(job.workdir))
  return begun


class _Changed(errors.UserError):
  """A workdir belongs to another run."""


def _check(job: jobs_lib.Job, reader: assemble.reader.Reader) -> None:
  with errors.naming(job.title):
    assembled = assemble.assemble(
        reader.read(auto.decided(job.run, job.workdir), job.workdir))
  try:
    plan_files.check_owner(assembled, job.workdir)
  except errors.UserError as error:
    raise _Changed(f"{job.title}: {error}") from error


def _keep(workdir: epath.Path) -> epath.Path:
  """Renames a workdir, and returns its new path."""
  names = (workdir.with_name(f"{workdir.name}.old_{i}") for i in itertools.count(1))
  path = next(name for name in names if not name.exists())
  workdir.rename(path)
  return path
