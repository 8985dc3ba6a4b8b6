"""Runs with controls: trains what is not finished, tests, compares and reports."""

import time
from typing import Any

from etils import epath

from transfer_gen.run import environment
from transfer_gen.study import auto
from transfer_gen.study import findings
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import outcome
from transfer_gen.study import pairs
from transfer_gen.study import preflight
from transfer_gen.study import report


def run(study: jobs_lib.Study, workdir: epath.PathLike) -> dict[str, Any]:
  """Trains, tests and compares runs; writes `result.json` and `report.html`.

  Args:
    study: Runs, pairs and seeds.
    workdir: Holds the workdir of each run. What is finished there is not done again.

  Returns:
    What `result.json` holds. Its `summary` has `<run>_test_loss` of each compared run
    (nats per token, mean over seeds), of the first pair the gain in nats per token, in
    bits per byte and in `Study.metrics` with its interval, `reached` and `gap` (see
    `comparison.compare`), `effective_data` and `pays_from` where they are known,
    `alarms` (treated runs that may be worse than their control), `best` (the training
    that the link `best` names, see `pairs.mark_best`) and `seconds`.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names.
  """
  start, workdir = time.time(), epath.Path(workdir)
  todo = jobs_lib.jobs(study, workdir)
  reader = preflight.check(study, todo)
  for number, job in enumerate(todo, 1):
    rate = f"lr {job.lr:g}" if job.lr else "lr chosen"
    print(f"[{number}/{len(todo)}] {job.name}, seed {job.seed}, {rate}", flush=True)
    with preflight.naming(f"run {job.name!r}"):
      auto.train(job.run, job.workdir, reader=reader)
  # Rates are chosen by validation, and only the chosen ones are scored on the test
  # split.
  chosen = {name: pairs.best_lr([job for job in todo if job.name == name])
            for pair in study.pairs for name in pair}
  tested = [job for job in todo if job.lr == chosen.get(job.name)]
  results = {name: [outcome.test(job, study, reader) for job in tested
                    if job.name == name]
             for name in chosen}
  best = pairs.mark_best(study.pairs, tested, workdir)
  found = findings.of_study(study, todo, results, reader)
  found["summary"] |= {
      "seeds": len(study.seeds),
      "lrs": {name: runs[0]["lr"] for name, runs in results.items()},
      "best": best,
      "seconds": round(time.time() - start, 1)}
  facts = {"question": study.question, **found,
           "environment": environment.describe(),
           "data": report.data_title(job.workdir for job in tested)}
  report.write(workdir, facts, {
      f"{job.name}, seed {job.seed}": outcome.metrics(job)
      for job in todo if job.lr == chosen.get(job.name, job.lr)})
  print(report.study_text(facts))
  metric = pairs.judged_by(tested).replace("bits_per_byte", "loss")
  print(f"best run by validation {metric}: {workdir / best}, also at {workdir}/best")
  print(f"report: {workdir / 'report.html'}")
  return facts
