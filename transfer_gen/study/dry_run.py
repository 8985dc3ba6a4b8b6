"""What a study would train, and about how long that takes; writes nothing."""

from etils import epath
import jax

from transfer_gen import progress
from transfer_gen.run import narrow
from transfer_gen.study import cost
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import preflight
from transfer_gen.study import step_time


def describe(study: jobs_lib.Study, workdir: epath.PathLike, only: str = "") -> str:
  """Returns a table of what a study would train, with costs and an estimate of time.

  The runs are checked as before training.

  Args:
    study: The study.
    workdir: Its workdir, from which nothing but the checks reads.
    only: As of `study.run`.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names, or `only`
      names none.
  """
  study = jobs_lib.expanded(study)
  jobs = jobs_lib.jobs(study, workdir)
  jobs_lib.check_only(jobs, only)
  checked = preflight.check(study, jobs)
  study = checked.study
  jobs = jobs_lib.selected(jobs_lib.jobs(study, workdir), only)
  rows = [("run", "seeds", "rates", "steps", "tokens", "GFLOPs", "seconds")]
  total = 0.0
  known: dict[tuple, float] = {}
  names = [*dict.fromkeys(job.name for job in jobs)]
  with progress.track("measuring steps", total=len(names), unit="run") as work:
    for name in names:
      mine = [job for job in jobs if job.name == name]
      assembled = checked.runs[name]
      steps = assembled.run.train.steps
      flops = cost.of_run(assembled, steps)
      # Runs of the same model and batches share their programs, and so their time.
      key = (flops / steps, str(assembled.run.model), str(assembled.run.data))
      if key not in known:
        known[key] = step_time.seconds(assembled)
      seconds = known[key] * steps * len(mine)
      total += seconds
      rows.append((
          name, str(len({job.seed for job in mine})),
          str(len({job.lr for job in mine})),
          f"{steps:,}", f"{step_time.tokens(assembled) * steps:,.0f}",
          f"{flops / 1e9:.3g}", f"{seconds:.3g}"))
      work.advance()
  times = "once" if study.widen == 1 else f"{study.widen} times"
  said = [
      f"{len(jobs)} trainings. Steps, tokens and GFLOPs are those of one training,"
      " seconds of all trainings of the run.",
      f"About {total:,.0f} s of training steps on {jax.devices()[0].platform}, measured"
      " by a few steps of each shape; without compiling, validation, teachers and what"
      " `auto` tries.", *checked.notes]
  said += [f"A grid whose best rate lies at its edge is widened, {times} at most, and"
          " then takes longer."] if len(study.lrs) > 1 and study.widen else []
  if study.budget == "converged":
    said.append("Controls whose validation loss still falls at the end are trained"
                " again, with up to 8 times their steps.")
  lines = [line for sentence in said for line in narrow.sentence(sentence)]
  return "\n".join([*narrow.table(rows), "", *lines])
