"""Checks the configs and the files of all runs of a study."""

from collections.abc import Collection, Sequence
import itertools

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import open_sources
from transfer_gen.run import reader as reader_lib
from transfer_gen.study import auto
from transfer_gen.study import jobs as jobs_lib

Reader = reader_lib.Reader


def check(study: jobs_lib.Study, jobs: Sequence[jobs_lib.Job]) -> Reader:
  """Checks the configs and files of all runs.

  Texts are read as a whole, and the reader keeps them, so that this costs no time
  later.

  Args:
    study: The study.
    jobs: All its trainings.

  Returns:
    A reader that has read the texts, and trained the tokenizers.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names, or a
      metric is unknown.
  """
  config_lib.check(study)
  if study.metrics and any(
      isinstance(job.run.model, jobs_lib.Sketch) for job in jobs):
    raise errors.UserError(
        f"metrics={study.metrics!r}: they look at texts, and a run of the study draws."
        " Leave them out.")
  # All configs first: they need nothing but themselves.
  for job in jobs:
    with errors.naming(f"run {job.name!r}"):
      auto.check(job.run)
  reader, made = Reader(), {str(job.workdir) for job in jobs}
  for job in jobs:
    with errors.naming(f"run {job.name!r}"):
      _check_files(job, reader, made)
  if study.remembered is not None:
    with errors.naming("remembered"):
      reader.texts(study.remembered)
  return reader


def _check_files(
    job: jobs_lib.Job, reader: Reader, made: Collection[str]) -> None:
  reader.check_texts(job.run, job.workdir)
  sources = list(job.run.all_sources().values())
  # What other runs of the study write is not there yet.
  if not any(path in made for source in sources for path in open_sources.paths(source)):
    open_sources.of_run(job.run)
  teacher = [job.run.distill.teacher] if job.run.distill else []
  for path in itertools.chain(*map(open_sources.paths, [*sources, *teacher])):
    if path not in made and not epath.Path(path).expanduser().exists():
      raise errors.UserError(f"{path}: there is no such file or folder.")
