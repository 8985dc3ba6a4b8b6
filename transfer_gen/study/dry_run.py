"""What a study would train, and about how long that takes; writes nothing."""

from collections.abc import Sequence
import itertools
import time

from etils import epath
import jax
from jax import numpy as jnp

from transfer_gen.run import narrow
from transfer_gen.run import stepping
from transfer_gen.study import cost
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import preflight
from transfer_gen.train import step as step_lib

_BATCHES = 32  # Whose lengths stand for those of an epoch.
_MEASURED = 3  # Steps of each shape, after one that compiles.


def describe(study: jobs_lib.Study, workdir: epath.PathLike, only: str = "") -> str:
  """Returns a table of what a study would train, with costs and an estimate of time.

  The runs are checked as before training.

  Args:
    study: The study.
    workdir: Its workdir, from which nothing but the checks reads.
    only: As of `study.run`.

  Raises:
    errors.UserError: If something is wrong in a run, which the message names.
  """
  jobs = jobs_lib.jobs(study, workdir)
  checked = preflight.check(study, jobs)
  jobs = jobs_lib.selected(jobs, only)
  rows = [("run", "seeds", "rates", "steps", "tokens", "GFLOPs", "seconds")]
  total = 0.0
  known: dict[tuple, float] = {}
  for name in dict.fromkeys(job.name for job in jobs):
    mine = [job for job in jobs if job.name == name]
    assembled = checked.runs[name]
    steps = assembled.run.train.steps
    flops = cost.of_run(assembled, steps)
    # Runs of the same model and batches share their programs, and so their time.
    key = (flops / steps, str(assembled.run.model), str(assembled.run.data))
    if key not in known:
      known[key] = _seconds_a_step(assembled)
    seconds = known[key] * steps * len(mine)
    total += seconds
    rows.append((
        name, str(len({job.seed for job in mine})),
        str(len({job.lr for job in mine})),
        f"{steps:,}", f"{_tokens(assembled) * steps:,.0f}",
        f"{flops / 1e9:.3g}", f"{seconds:.3g}"))
  more = [f"A grid whose best rate lies at its edge is widened, {study.widen} times at"
          " most, and then takes longer."] if len(study.lrs) > 1 else []
  if study.budget == "converged":
    more.append("Controls whose validation loss still falls at the end are trained"
                " again, with up to 8 times their steps.")
  return "\n".join([
      *narrow.table(rows), "",
      f"{len(jobs)} trainings. Steps, tokens and GFLOPs are those of one training,"
      " seconds of all trainings of the run.",
      f"About {total:,.0f} s of training steps on {jax.devices()[0].platform}, measured"
      " by a few steps of each shape; without compiling, validation, teachers and what"
      " `auto` tries.", *more])


def _batches(assembled) -> Sequence[step_lib.Batch]:
  run = assembled.run
  return [*itertools.islice(
      assembled.data.train_batches(run.train.rows, run.seed), _BATCHES)]


def _tokens(assembled) -> float:
  """Mean number of tokens of a batch that count."""
  batches = _batches(assembled)
  return sum(float(batch["weights"].sum()) for batch in batches) / len(batches)


def _seconds_a_step(assembled) -> float:
  """Seconds of a step, mean over the shapes of the batches of an epoch."""
  assembled = assembled.replace(teacher=None, first_layer=0)
  runner = stepping.runner(assembled)
  # Values take no time, so params need not be read.
  params = {name: jnp.zeros(spec.shape, spec.dtype)
            for name, spec in assembled.specs.items()}
  state = runner.place(step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=assembled.optimizer.extend({}, params, 0)))
  batches = _batches(assembled)
  shapes: dict[tuple, list] = {}
  for batch in batches:
    shape = tuple((name, value.shape) for name, value in sorted(batch.items()))
    shapes.setdefault(shape, []).append(batch)
  key, seconds = jax.random.key(0), 0.0
  for alike in shapes.values():
    state, _ = runner.step(state, runner.put(alike[0]), key)  # Compiles.
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(_MEASURED):
      state, _ = runner.step(state, runner.put(alike[0]), key)
    jax.block_until_ready(state)
    seconds += (time.perf_counter() - begin) / _MEASURED * len(alike) / len(batches)
  return seconds
