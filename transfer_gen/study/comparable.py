"""Whether runs that have trained can be compared, and what a reader has to know."""

from collections.abc import Iterator, Sequence

from transfer_gen import errors
from transfer_gen.run import recorded
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import fairness
from transfer_gen.study import jobs as jobs_lib


def check(jobs: Sequence[jobs_lib.Job], reader: trained_lib.Reader) -> None:
  """Checks that all runs are tested on the same documents as the last one.

  Args:
    jobs: The runs.
    reader: Reads their texts, and keeps them.

  Raises:
    errors.UserError: If one is not, or its data are not there any more; names all such
      runs, what differs and what would make them comparable.
  """
  misfits = []
  for job in jobs:
    try:
      recorded.texts(job.workdir, job.run, reader)
    except errors.UserError as error:
      misfits.append(str(error))
  if not misfits:
    control = jobs[-1]
    misfits = [f"{job.name!r} and {control.name!r}: {cause}"
               for job in jobs[:-1] for cause in _causes(job, control, reader)]
  if misfits:
    raise errors.UserError("\n  ".join([
        "runs that cannot be compared:", *dict.fromkeys(misfits)]))


def notes(jobs: Sequence[jobs_lib.Job]) -> list[str]:
  """Returns in which budgets runs differ from the last one, for people."""
  control = jobs[-1]
  return [f"{job.name} and {control.name} had other budgets: {sentence}"
          for job in jobs[:-1] for sentence in fairness.budgets(job.run, control.run)]


def _causes(
    job: jobs_lib.Job, control: jobs_lib.Job, reader: trained_lib.Reader
) -> Iterator[str]:
  wrong = [*fairness.documents(job.run, control.run, reader)]
  if wrong:
    yield (f"{wrong[0]} Train one of them again with the other's data, or compare both"
           f" on any other texts: evaluate --workdir={job.workdir}"
           f" --against={control.workdir} --data=FILES.")
    return
  # Densities of drawings depend on the unit of their offsets.
  first, second = (
      getattr(trained_lib.open(one.workdir).tokenizer, "scale", None)
      for one in (job, control))
  if first != second:
    yield (f"their drawings are divided by {first} and {second}, so that their losses"
           " have other units. Train both with the same tokenizer, or on the same"
           " data.")
