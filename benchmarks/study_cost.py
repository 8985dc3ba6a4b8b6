"""Times a study beside its runs one by one, and the page of many runs."""

from collections.abc import Callable
import copy
import dataclasses
import json
import pathlib
import statistics
import time

from benchmarks import timing
from transfer_gen import config
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import records
from transfer_gen.study import auto
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import outcome
from transfer_gen.study import report_page
from transfer_gen.study import study as study_lib


def smallest(study: config.Study) -> config.Study:
  """Returns the study with runs of two steps."""
  runs = {name: run.with_values("train", steps=2, eval_every=1, log_every=1,
                                checkpoint_every=2)
          for name, run in study.runs.items()}
  return dataclasses.replace(study, runs=runs, samples=1)


def run(
    study: config.Study, rounds: int, runs: int, folder: pathlib.Path
) -> dict[str, float]:
  """Returns `overhead`, `report_seconds` and `report_mb`.

  Args:
    study: The study to time.
    rounds: How many times it and its runs are timed, in turns.
    runs: Number of runs on the page.
    folder: An empty folder.
  """
  ratios = []
  for turn in range(rounds):
    parts: tuple[Callable[..., float], ...] = (_studied, _one_by_one)
    seconds = {part: timing.alone(part, study, folder / f"{part.__name__}_{turn}")
               for part in (parts if turn % 2 else parts[::-1])}
    ratios.append(seconds[_studied] / seconds[_one_by_one])
    print(f"study {seconds[_studied]:.1f} s,"
          f" its runs one by one {seconds[_one_by_one]:.1f} s", flush=True)
  return {"overhead": round(statistics.median(ratios) - 1, 4),
          **timing.alone(_page, folder / f"{_studied.__name__}_0", runs)}


def _studied(study: config.Study, folder: pathlib.Path) -> float:
  start = time.perf_counter()
  study_lib.run(study, folder)
  return time.perf_counter() - start


def _one_by_one(study: config.Study, folder: pathlib.Path) -> float:
  """Trains and scores the runs of a study, each as if there were no other one."""
  start = time.perf_counter()
  compared = jobs_lib.compared(study)
  for job in jobs_lib.jobs(study, folder):
    auto.train(job.run, job.workdir)
    if job.name in compared:
      outcome.test(job, reader_lib.Reader())
  return time.perf_counter() - start


def _page(folder: pathlib.Path, count: int) -> dict[str, float]:
  """Times the page of a study whose last treatment stands there many times."""
  facts = json.loads((folder / "results.json").read_text())
  pair = facts["comparisons"][-1]
  curves: dict[str, dict[str, list]] = {}
  for one in facts["trainings"]:
    curves.setdefault(one["run"], {})[f"seed {one['seed']}"] = records.read_metrics(
        folder / one["workdir"])
  for number in range(count - len(facts["runs"])):
    name = f"{pair['treated']} {number}"
    facts["runs"][name] = facts["runs"][pair["treated"]]
    facts["comparisons"].append({**copy.deepcopy(pair), "treated": name})
    facts["trainings"] += [{**one, "run": name} for one in facts["trainings"]
                           if one["run"] == pair["treated"]]
    curves[name] = curves[pair["treated"]]
  start = time.perf_counter()
  text = report_page.study_page(facts, curves, folder)
  return {"report_seconds": round(time.perf_counter() - start, 2),
          "report_mb": round(len(text.encode()) / 1e6, 2)}
