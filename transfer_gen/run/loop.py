"""Trains a run: starts it, or resumes it from the last checkpoint of its workdir."""

import contextlib
import dataclasses
import time
from typing import Any, NoReturn

from etils import epath
import numpy as np

from transfer_gen import interrupt
from transfer_gen.run import assemble
from transfer_gen.run import beginning
from transfer_gen.run import best as best_lib
from transfer_gen.run import facts as facts_lib
from transfer_gen.run import feed as feed_lib
from transfer_gen.run import initial
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import ledger as ledger_lib
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import records
from transfer_gen.run import stepping
from transfer_gen.run import together
from transfer_gen.run import validation
from transfer_gen.run import watch as watch_lib
from transfer_gen.train import step as step_lib


def train(
    run: inputs_lib.Run, workdir: epath.PathLike, min_coverage: float = 0.0,
    stop: int | None = None, inputs: inputs_lib.Inputs | None = None,
    events: epath.Path | None = None, profile: int = 0,
) -> dict[str, Any]:
  """Trains to the end, and leaves in `workdir` the files that the README lists.

  Args:
    run: Config of the run.
    workdir: Empty, new, or of this same run, which is then resumed.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].
    stop: Step to stop at, with a checkpoint to resume from. If None, training goes to
      the end.
    inputs: What the run reads, if it was read before; `run` may differ from theirs in
      how it learns. If None, it is read here.
    events: Folder of TensorBoard's events; one in the workdir if None.
    profile: Number of steps to record for XProf, see `watch.Watch`.

  Returns:
    `step`, `best_step`, `best_validation_loss` (at that step), `seconds` of this call,
    and where validations are compared by another metric, `best_METRIC`.

  Raises:
    errors.UserError: For bad input, a workdir of another run, or a loss that is
      not finite (then `ledger.Diverged`).
    interrupt.Interrupted: After SIGTERM or Ctrl-C, once the step is saved.
  """
  start_time = time.time()
  workdir = epath.Path(workdir)
  if inputs is None:
    inputs = reader_lib.Reader().read(run, workdir)
  print(*inputs.describe_data(), sep="\n", flush=True)
  assembled = assemble.assemble(inputs.with_run(run))
  run = assembled.run  # With all that a strategy wrote.
  print("\n".join([*assembled.inputs.notes, ""]), end="", flush=True)
  runner = stepping.runner(assembled)
  # Before any array is read, so that a workdir of another run is refused at once and
  # the audit can be read while the params still load.
  together.claim(assembled, workdir, min_coverage)
  with beginning.find(assembled, runner, workdir, stop) as (start, state), (
      contextlib.closing(records.MetricsWriter(
          # Lines after the checkpoint are dropped here: those steps are taken again.
          workdir, start.step, start.validated, events,
          assembled.optimizer.rates))) as writer, contextlib.closing(
              watch_lib.Watch(assembled, workdir, start.step, profile)) as watch:
    session = _Session(assembled=assembled, runner=runner, start=start, writer=writer,
                       workdir=workdir, watch=watch)
    best = (best_lib.from_facts(start.facts["best"]) if start.facts
            else best_lib.begin(run.train.metric))
    if state is not None:
      best = _loop(session, state, best, stop)
    # Checkpoints are written in the background. `step` below is that of the newest
    # complete one.
    with watch.doing("saves"):
      start.checkpoints.wait()
      together.finish(workdir)
  return {"step": start.checkpoints.last_step(), "best_step": best.step,
          "best_validation_loss": best.loss,
          **({} if best.metric == best_lib.LOSS else {
              f"best_{best.metric}": best.value}),
          "seconds": round(time.time() - start_time, 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
  """What a training in progress works with."""
  assembled: assemble.Assembled
  runner: stepping.Runner
  start: beginning.Beginning
  writer: records.MetricsWriter
  workdir: epath.Path
  watch: watch_lib.Watch


def _loop(
    session: _Session, state: step_lib.TrainState, best: best_lib.Best,
    stop: int | None,
) -> best_lib.Best:
  assembled, runner = session.assembled, session.runner
  start, checkpoints = session.start, session.start.checkpoints
  # Folded with the step when it is used, so that a resumed run draws the same masks.
  key = initial.keys(assembled.run.seed)[0]  # Of dropout.
  run, optimizer, done = assembled.run, assembled.optimizer, start.step
  lr = np.float32(run.optim.lr)
  feed = feed_lib.prepare(
      assembled, state.params, start.facts.get("data"), runner.put, session.workdir,
      runner.rows)
  validate = validation.make(assembled, feed.data, runner.put_whole)
  state = runner.place(state)
  finished = False

  def describe(validated: bool) -> dict[str, Any]:
    # The position of the batches and the best validation so far travel with the params,
    # so that a resumed run sees the batches and decides as an uninterrupted one would.
    return {**facts_lib.describe(assembled), "data": feed.batches.get_state(),
            "pending": ledger.pending(done), "best": dataclasses.asdict(best),
            "finished": finished, "validated": validated}

  with interrupt.deferred() as signalled, contextlib.closing(
      ledger_lib.Ledger(session.writer, checkpoints, done, run.train,
                        start.facts.get("pending", ()))) as ledger:
    if not start.validated:
      finished = _validate(session, ledger, validate, best, done, runner.fetch(state))
      checkpoints.amend(done, describe(validated=True))
    # Steps are counted on the host: reading `state.step` would wait for the device.
    while not finished and done != stop:
      if done in optimizer.starts.values() and done:
        state = _with_slots(session, state, done)
      batch = feed.put(next(feed.batches))
      state, metrics = runner.step(state, batch, key, lr)
      done += 1
      ledger.add(metrics, session.watch.after(done, batch, metrics))
      validates, saves, logs = _due(run, done, stop)
      if logs:
        # Before validation and checkpoints, so that a loss that is not finite raises
        # before such params are saved.
        ledger.settle(done)
      number = signalled(done)  # Asked once: it may come at any line.
      saves = saves or number
      fetched = runner.fetch(state) if validates or saves else state
      if validates or saves:
        ledger.check(done, fetched.params)
      # Before a validation, which may take long or fail, so that no step is lost.
      if saves:
        with session.watch.doing("saves"):
          checkpoints.save(done, fetched.params, fetched.opt_state,
                           describe(validated=not validates), fetched.others)
      if number:
        _end(session, done, number)
      if validates:
        finished = _validate(session, ledger, validate, best, done, fetched)
        if saves:
          checkpoints.amend(done, describe(validated=True))
        elif finished:
          checkpoints.save(done, fetched.params, fetched.opt_state,
                           describe(validated=True), fetched.others)
  return best


# Now and not at step 0, so that no memory is taken by what is still frozen. At step 0
# `state.fresh` has made them.
def _with_slots(
    session: _Session, state: step_lib.TrainState, done: int) -> step_lib.TrainState:
  """Adds the slots of the groups that start to learn after `done` steps."""
  state = session.runner.fetch(state)
  return session.runner.place(dataclasses.replace(
      state, opt_state=session.assembled.optimizer.extend(
          state.opt_state, state.params, done)))


def _due(run: inputs_lib.Run, done: int, stop: int | None) -> tuple[bool, bool, bool]:
  """Returns whether to validate, to save and to write a line after a step."""
  train, last = run.train, done == run.train.steps
  validates = last or done % train.eval_every == 0
  saves = last or done == stop or done % train.checkpoint_every == 0
  return validates, saves, validates or saves or done % train.log_every == 0


def _end(session: _Session, done: int, number: int) -> NoReturn:
  with session.watch.doing("saves"):
    session.start.checkpoints.wait()
  raise interrupt.Interrupted(
      f"Interrupted after step {done}, with a checkpoint. If you run the same command"
      " again, the training continues from there.", number)


def _validate(
    session: _Session, ledger: ledger_lib.Ledger, validate: validation.Validate,
    best: best_lib.Best, done: int, state: step_lib.TrainState,
) -> bool:
  """Validates, saves the params if they are the best; returns whether the run ends."""
  config = session.assembled.run.train
  params = step_lib.averaged(state) if config.ema_validates else state.params
  with session.watch.doing("validates"):
    scores = validate(params)
  ledger.validated(done, scores, best.judge(done, scores))
  # The best params are saved before the facts that name them.
  if best.step == done:
    session.start.checkpoints.save_best(
        done, params, facts_lib.describe(session.assembled))
  ledger.restart()
  # A patience of 0 never stops a run.
  return done == config.steps or 0 < config.patience <= best.stale
