"""Trains a run: starts it, or resumes it from the last checkpoint of its workdir."""

from collections.abc import Mapping
import contextlib
import dataclasses
import time
from typing import Any

from etils import epath
import jax

from transfer_gen import checkpoint
from transfer_gen.run import assemble
from transfer_gen.run import best as best_lib
from transfer_gen.run import facts as facts_lib
from transfer_gen.run import feed as feed_lib
from transfer_gen.run import initial
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import ledger as ledger_lib
from transfer_gen.run import page
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import records
from transfer_gen.run import state as state_lib
from transfer_gen.run import stepping
from transfer_gen.run import validation
from transfer_gen.run import workdir as workdir_lib
from transfer_gen.train import step as step_lib


def train(
    run: inputs_lib.Run, workdir: epath.PathLike, min_coverage: float = 0.0,
    stop: int | None = None, inputs: inputs_lib.Inputs | None = None,
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

  Returns:
    `step`, `best_step`, `best_validation_loss` (at that step), `seconds` of this call,
    and where validations are compared by another metric, `best_METRIC`.

  Raises:
    errors.UserError: For bad input, a workdir of another run, or a loss that is
      not finite (then `ledger.Diverged`).
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
  workdir_lib.claim(assembled, workdir, min_coverage)
  checkpoints = checkpoint.Checkpoints(workdir)
  last = checkpoints.last_step()
  facts = {} if last is None else checkpoints.facts(last)
  session = _Session(
      assembled=assembled, runner=runner, checkpoints=checkpoints,
      key=initial.keys(run.seed)[0],
      # Lines after the last checkpoint are dropped here: those steps are taken again.
      workdir=workdir, writer=records.MetricsWriter(
          workdir, last or 0, _is_validated(facts)))
  try:
    if last is None:
      leaves = len(assembled.rows)
      print(f"{workdir}: {leaves} leaves, audited in audit.txt", flush=True)
      best = _loop(session, state_lib.fresh(assembled, runner.shardings),
                   best_lib.begin(run.train.metric), stop)
    else:
      print(f"{workdir}: goes on from step {last}", flush=True)
      best = _go_on(session, last, facts, stop)
    # Checkpoints are written in the background. `step` below is that of the newest
    # complete one.
    checkpoints.wait()
    page.write(workdir)
  finally:
    session.writer.close()
    checkpoints.close()
  return {"step": checkpoints.last_step(), "best_step": best.step,
          "best_validation_loss": best.loss,
          **({} if best.metric == best_lib.LOSS else {
              f"best_{best.metric}": best.value}),
          "seconds": round(time.time() - start_time, 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
  """What a training in progress works with."""
  assembled: assemble.Assembled
  runner: stepping.Runner
  checkpoints: checkpoint.Checkpoints
  writer: records.MetricsWriter
  workdir: epath.Path
  # Folded with the step when it is used, so that a resumed run draws the same masks.
  key: jax.Array  # Of dropout.


def _is_validated(facts: Mapping[str, Any]) -> bool:
  """Whether the validation that was due at a checkpoint was done; so without facts."""
  return facts.get("validated", True)


def _go_on(
    session: _Session, step: int, facts: Mapping[str, Any], stop: int | None
) -> best_lib.Best:
  """Restores the checkpoint of `step` and trains from there to the end."""
  best = best_lib.from_facts(facts["best"])
  # Checked in the facts, which are small, so a run that has ended is reported without
  # reading its arrays.
  ended = facts["finished"] or (stop is not None and step >= stop)
  if ended and _is_validated(facts):
    return best
  state = state_lib.restored(
      session.assembled, session.checkpoints, step, session.runner)
  return _loop(session, state, best, stop, facts)


def _loop(
    session: _Session, state: step_lib.TrainState, best: best_lib.Best,
    stop: int | None, facts: Mapping[str, Any] | None = None,
) -> best_lib.Best:
  assembled, runner, facts = session.assembled, session.runner, facts or {}
  checkpoints = session.checkpoints
  run, optimizer, done = assembled.run, assembled.optimizer, int(state.step)
  feed = feed_lib.prepare(
      assembled, state.params, facts.get("data"), runner.put, session.workdir)
  validate = validation.make(assembled, feed.data, runner.put)
  state = runner.place(state)
  finished = False

  def describe(validated: bool) -> dict[str, Any]:
    # The position of the batches and the best validation so far travel with the params,
    # so that a resumed run sees the batches and decides as an uninterrupted one would.
    return {**facts_lib.describe(assembled), "data": feed.batches.get_state(),
            "finished": finished, "validated": validated,
            "best": dataclasses.asdict(best)}

  with contextlib.closing(
      ledger_lib.Ledger(session.writer, checkpoints, done, run.train)) as ledger:
    if not _is_validated(facts):
      finished = _validate(session, ledger, validate, best, done, runner.fetch(state))
      checkpoints.amend(done, describe(validated=True))
    # Steps are counted on the host. Reading `state.step` would wait for the device in
    # each step.
    while not finished and done != stop:
      # A group that starts to learn gets its slots now, not at step 0, so that no
      # memory is taken by what is still frozen. At step 0 `state.fresh` has made them.
      if done in optimizer.starts.values() and done:
        state = runner.fetch(state)
        state = runner.place(dataclasses.replace(
            state, opt_state=optimizer.extend(state.opt_state, state.params, done)))
      state, metrics = runner.step(
          state, feed.put(next(feed.batches)), session.key)
      done += 1
      ledger.add(metrics)
      last = done == run.train.steps
      validates = last or done % run.train.eval_every == 0
      saves = last or done == stop or done % run.train.checkpoint_every == 0
      if validates or saves or done % run.train.log_every == 0:
        # Before validation and checkpoints, so that a loss that is not finite raises
        # before such params are saved.
        ledger.settle(done)
      fetched = runner.fetch(state) if validates or saves else state
      if validates or saves:
        ledger.check(done, fetched.params)
      # Before a validation, which may take long or fail, so that no step is lost.
      if saves:
        checkpoints.save(done, fetched.params, fetched.opt_state,
                         describe(validated=not validates))
      if validates:
        finished = _validate(session, ledger, validate, best, done, fetched)
        if saves:
          checkpoints.amend(done, describe(validated=True))
        elif finished:
          checkpoints.save(done, fetched.params, fetched.opt_state,
                           describe(validated=True))
  return best


def _validate(
    session: _Session, ledger: ledger_lib.Ledger, validate: validation.Validate,
    best: best_lib.Best, done: int, state: step_lib.TrainState,
) -> bool:
  """Validates, saves the params if they are the best; returns whether the run ends."""
  config = session.assembled.run.train
  scores = validate(state.params)
  ledger.validated(done, scores, best.judge(done, scores))
  # The best params are saved before the facts that name them.
  if best.step == done:
    session.checkpoints.save_best(
        done, state.params, facts_lib.describe(session.assembled))
  ledger.restart()
  # A patience of 0 never stops a run.
  return done == config.steps or 0 < config.patience <= best.stale
