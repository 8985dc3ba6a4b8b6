"""Compares runs that have trained, without a study: each with the last one."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.study import comparable
from transfer_gen.study import findings
from transfer_gen.study import finished_runs
from transfer_gen.study import outcome as outcome_lib
from transfer_gen.study import report_folder

PAGE = report_folder.PAGE
_SEED = 0  # By which documents are drawn for samples.


def run(
    words: Sequence[str], output: epath.PathLike, samples: int = 0, command: str = ""
) -> dict[str, Any]:
  """Compares runs on their test split, and writes a report into a new folder.

  A run that a study or an evaluation has scored is not scored again. The scores of
  others are written into their workdirs, as a study does.

  Args:
    words: Workdirs, or NAME=DIR, see `finished_runs.open`; the last one is the control.
    output: The folder. It receives `report.html`, `results.csv`, `pairs.csv`,
      `results.json`, and samples of each run.
    samples: Number of prompts of the test split that each run continues.
    command: What was typed to get this, for the report.

  Returns:
    What `results.json` holds.

  Raises:
    errors.UserError: If the runs cannot be compared, or the folder is there already.
  """
  output = epath.Path(output)
  whole.check_new(output)
  jobs, reader = finished_runs.open(words), outcome_lib.trained_lib.Reader()
  comparable.check(jobs, reader)
  results = {job.name: [outcome_lib.test(job, reader)] for job in jobs}
  names = [*results]
  study = findings.jobs_lib.Study(
      question=f"{', '.join(names[:-1])} against {names[-1]}",
      runs={job.name: job.run for job in jobs}, seeds=(_SEED,),
      pairs=tuple((name, names[-1]) for name in names[:-1]))
  with whole.folder(output) as folder:
    for job in jobs if samples else ():
      own = folder / "samples" / job.name
      own.mkdir(parents=True)
      results[job.name] = [outcome_lib.with_samples(
          job, results[job.name][0], samples, _SEED, reader, own)]
    found = findings.of_study(study, jobs, results, {})
    found["summary"]["lrs"] = {job.name: job.lr for job in jobs}
    facts = {"question": study.question, "command": command, **found,
             "notes": comparable.notes(jobs)}
    report_folder.write(
        folder, facts, jobs, jobs, lambda what, make, otherwise: make())
  return facts
