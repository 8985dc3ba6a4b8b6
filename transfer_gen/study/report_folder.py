"""The files that say what a study found: JSON, a table and a page."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.run import environment
from transfer_gen.study import every_training
from transfer_gen.study import report_files
from transfer_gen.study import report_page
from transfer_gen.study import trainings_csv

RESULT, PAGE = "result.json", "report.html"  # In the workdir of a study.
_PATHS = {"pictures", "test_pictures", "workdir"}  # Keys of results that hold one.


def write(
    folder: epath.PathLike, facts: dict[str, Any],
    jobs: Sequence[every_training.jobs_lib.Job],
    tested: Sequence[every_training.jobs_lib.Job], show: Callable[..., Any],
    name: str = RESULT) -> None:
  """Writes result.json, results.csv and report.html into a folder.

  Args:
    folder: The folder.
    facts: What was found. What is known of the trainings is added: `trainings`, see
      `every_training.describe`, `data` and `environment`; and paths become those that
      are seen from the folder, so that all can be moved together.
    jobs: All trainings that have ended.
    tested: Those of them that are compared.
    show: Makes the page; a failure of that is no failure of the study, see
      `trainings.Trainings.show`.
    name: Name of the JSON file.
  """
  folder = epath.Path(folder)
  found = [(job, every_training.role(job, tested, facts["sources"])) for job in jobs]
  facts |= {"trainings": [every_training.describe(*one) for one in found],
            "environment": environment.describe(),
            "data": data_title(job.workdir for job in tested)}
  runs = [run for runs in facts["runs"].values() for run in runs]
  for one in [*runs, *facts["trainings"]]:
    for key in _PATHS & one.keys():
      one[key] = report_files.relative(one[key], folder)
  whole.write_json(folder / name, facts)
  trainings_csv.write(folder, facts)
  show(PAGE, lambda: whole.write_text(folder / PAGE, report_page.study_page(
      facts, every_training.curves(found), folder)), None)


def data_title(workdirs: Iterable[epath.Path]) -> str:
  """Returns name, version, if any, and fingerprint of each data set that runs read."""
  title = lambda data: " ".join(map(str, filter(
      None, (data["name"], data.get("version"), data["fingerprint"][:16]))))
  return ", ".join(dict.fromkeys(
      whole.read_json(workdir / "data.json", title) for workdir in workdirs))
