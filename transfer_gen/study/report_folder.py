"""The files that say what a study found: JSON, tables, a page and a picture."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.study import every_training
from transfer_gen.study import report_csv
from transfer_gen.study import report_files
from transfer_gen.study import report_page
from transfer_gen.study import report_picture

RESULT, PAGE = "results.json", "report.html"
_PATHS = {"pictures", "test_pictures", "workdir"}  # Keys of results that hold one.


def write(
    folder: epath.PathLike, facts: dict[str, Any],
    jobs: Sequence[every_training.jobs_lib.Job],
    tested: Sequence[every_training.jobs_lib.Job], show: Callable[..., Any]) -> None:
  """Writes what was found into a folder: see `RESULT`, `report_csv` and `PAGE`.

  `report.svg` is the answer as a picture.

  Args:
    folder: The folder.
    facts: What was found. What is known of the trainings is added: see
      `every_training.described`; and paths become those that are seen from the folder,
      so that all can be moved together.
    jobs: All trainings that have ended.
    tested: Those of them that are compared.
    show: Makes the page; a failure of that is no failure of the study, see
      `trainings.Trainings.show`.
  """
  folder = epath.Path(folder)
  found = [(job, every_training.role(job, tested, facts["sources"])) for job in jobs]
  facts |= every_training.described(found, tested)
  runs = [run for runs in facts["runs"].values() for run in runs]
  for one in [*runs, *facts["trainings"]]:
    for key in _PATHS & one.keys():
      one[key] = report_files.relative(one[key], folder)
  whole.write_json(folder / RESULT, facts)
  report_csv.write(folder, facts)
  curves = every_training.curves(found)
  show(PAGE, lambda: whole.write_text(
      folder / PAGE, report_page.study_page(facts, curves, folder)), None)
  show(report_picture.FILE, lambda: whole.write_text(
      folder / report_picture.FILE, report_picture.draw(facts, curves)), None)

