"""Trains a run: starts it, or goes on where its workdir stopped."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import math
import sys
import time
from typing import Any

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np
import tqdm

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.adapters import wrap
from transfer_gen.distill import loss as distill
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import feed as feed_lib
from transfer_gen.run import initial as start
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import workdir as workdir_lib
from transfer_gen.train import moments
from transfer_gen.train import objectives
from transfer_gen.train import parallel
from transfer_gen.train import score as evaluate
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib


class Diverged(errors.UserError):
  """The loss is not finite any more."""


@dataclasses.dataclass
class Best:
  """The best validation so far; travels in a checkpoint's facts."""
  loss: float = math.inf
  step: int = -1
  stale: int = 0  # Validations since.


def train(
    run: config_lib.Run, workdir: epath.PathLike, min_coverage: float = 0.0,
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
    `step`, `best_step`, `best_validation_loss` and `seconds` of this call.

  Raises:
    errors.UserError: For bad input, a workdir of another run, or a loss that is
      not finite (then `Diverged`).
  """
  start_time = time.time()
  workdir = epath.Path(workdir)
  if inputs is None:
    inputs = inputs_lib.Reader().read(run, workdir)
  assembled = assemble.assemble(inputs.with_run(run))
  run = assembled.run  # With all that a strategy wrote.
  runner = parallel.runner(
      run.parallel, assembled.specs, run.train.batch_size, run.optim.accumulate,
      nll_fn=distill.objective(
          assembled.teacher, assembled.model,
          run.model.dropout > 0 or wrap.has_dropout(run.adapters), assembled.first_layer),
      optimizer=assembled.optimizer)
  workdir_lib.claim(assembled, workdir, min_coverage)
  checkpoints = checkpoint.Checkpoints(workdir)
  last = checkpoints.last_step()
  session = _Session(
      assembled=assembled, runner=runner, checkpoints=checkpoints,
      key=start.keys(run.seed)[0],
      workdir=workdir, writer=workdir_lib.MetricsWriter(workdir, last or 0))
  try:
    if last is None:
      print(f"{workdir}: {len(assembled.rows)} leaves, audited in audit.txt", flush=True)
      best = _loop(session, _start(session), Best(), stop)
    else:
      print(f"{workdir}: goes on from step {last}", flush=True)
      best = _go_on(session, last, stop)
    checkpoints.wait()
    workdir_lib.write_report(workdir)
  finally:
    session.writer.close()
    checkpoints.close()
  return {"step": checkpoints.last_step(), "best_step": best.step,
          "best_validation_loss": best.loss,
          "seconds": round(time.time() - start_time, 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
  """What a training in progress works with."""
  assembled: assemble.Assembled
  runner: parallel.Runner
  checkpoints: checkpoint.Checkpoints
  writer: workdir_lib.MetricsWriter
  workdir: epath.Path
  key: jax.Array  # Of dropout.


def _start(session: _Session) -> step_lib.TrainState:
  assembled, shardings = session.assembled, session.runner.shardings
  with _reading(assembled) as progress:
    params = start.params(assembled, shardings, progress)
  opt_state = moments.restore(
      assembled.rows, assembled.optimizer, assembled.sources,
      assembled.optimizer.extend({}, params, 0), shardings)
  return step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state)


@contextlib.contextmanager
def _reading(assembled: assemble.Assembled) -> Iterator[Callable[[int], object]]:
  """Shows how many bytes of the sources were read: a bar, or a line in a log."""
  read = {(row.checkpoint, name): row.source_spec.nbytes
          for row in assembled.rows for name in row.sources}
  began, total = time.perf_counter(), sum(read.values())
  with tqdm.tqdm(
      total=total, unit="B", unit_scale=True, desc="reading", leave=False,
      disable=None if read and sys.stderr.isatty() else True) as bar:
    yield bar.update
  seconds = time.perf_counter() - began
  if read:
    print(f"{len(read)} source leaves read, {total / 2**20:.1f} MB in {seconds:.1f} s"
          f" ({total / 2**20 / seconds:.0f} MB/s)", flush=True)


def _go_on(session: _Session, step: int, stop: int | None) -> Best:
  """Restores the checkpoint of `step` and trains from there to the end."""
  assembled, checkpoints = session.assembled, session.checkpoints
  facts = checkpoints.facts(step)
  best = Best(**facts["best"])
  if facts["finished"] or (stop is not None and step >= stop):
    return best
  shapes = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in assembled.specs.items()}
  # The groups of the state before `step`: a group that starts there has no slots.
  opt_state = jax.eval_shape(
      lambda params: assembled.optimizer.extend({}, params, max(step - 1, 0)), shapes)
  params, opt_state = checkpoints.restore(
      step, session.runner.abstract(shapes, assembled.specs),
      session.runner.abstract(opt_state, assembled.specs))
  return _loop(session, step_lib.TrainState(
      step=jnp.asarray(step, jnp.int32), params=params, opt_state=opt_state), best,
      stop, facts["data"])


def _loop(
    session: _Session, state: step_lib.TrainState, best: Best, stop: int | None,
    position: dict[str, Any] | None = None,
) -> Best:
  assembled, runner, checkpoints = session.assembled, session.runner, session.checkpoints
  run, optimizer, done = assembled.run, assembled.optimizer, int(state.step)
  feed = feed_lib.of(assembled, state.params, position, runner.put, session.workdir)
  score = evaluate.evaluator(
      objectives.next_token(assembled.model, False, assembled.first_layer))
  put = runner.put if run.parallel.mode == "jit" else jnp.asarray
  ledger = _Ledger(session, done)
  state = runner.place(state)
  finished = False
  while not finished and done != stop:
    if done in optimizer.starts.values() and done:
      state = runner.fetch(state)
      state = runner.place(state.replace(
          opt_state=optimizer.extend(state.opt_state, state.params, done)))
    state, metrics = runner.step(
        state, feed.put(next(feed.batches)), session.key)
    done += 1
    ledger.add(metrics)
    last = done == run.train.steps
    validates = last or done % run.train.eval_every == 0
    saves = last or done == stop or done % run.train.checkpoint_every == 0
    if validates or saves or done % run.train.log_every == 0:
      ledger.settle(done)
    if validates:
      params = runner.fetch(state).params
      scores = score(params, feed.data, "validation", run.train.batch_size,
                     lambda b: jax.tree.map(put, b))
      ledger.write(done, "validation", scores.metrics())
      _judge(best, scores.metrics()["loss"], done)
      if best.step == done:
        checkpoints.save_best(done, params, _facts(assembled))
      ledger.restart()
    finished = last or 0 < run.train.patience <= best.stale
    if saves or finished:
      fetched = runner.fetch(state)
      checkpoints.save(done, fetched.params, fetched.opt_state, {
          **_facts(assembled), "data": feed.batches.get_state(),
          "finished": finished, "best": dataclasses.asdict(best)})
  ledger.close()
  return best


def _judge(best: Best, loss: float, step: int) -> None:
  if loss < best.loss:
    best.loss, best.step, best.stale = loss, step, 0
  else:
    best.stale += 1


def _facts(assembled) -> dict[str, Any]:
  return {"axes": checkpoint.axes_facts(assembled.specs),
          "constants": registry.constants(assembled.run.model),
          "scales": wrap.scales(assembled.run.adapters, assembled.specs),
          "plan": plan_lib.fingerprint(assembled.plan)}


class _Ledger:
  """Metrics of the steps that were not told of yet, still on the device."""

  def __init__(self, session: _Session, done: int):
    self._writer, self._checkpoints = session.writer, session.checkpoints
    self._pending = []
    self.restart()
    self._bar = tqdm.tqdm(
        total=session.assembled.run.train.steps, initial=done, unit="step",
        dynamic_ncols=True, disable=None if sys.stderr.isatty() else True)

  def add(self, metrics) -> None:
    self._pending.append(metrics)
    self._bar.update()

  def settle(self, step: int) -> None:
    """Fetches what is pending and writes its line.

    Raises:
      errors.UserError: If a loss is not finite.
    """
    fetched = jax.device_get(self._pending)
    losses = [total / max(count, 1.0) for total, count in
              (metrics["loss"] for metrics in fetched)]
    for i, loss in enumerate(losses):
      if not np.isfinite(loss):
        self._stop(step - len(losses) + i + 1, float(loss))
    seconds = time.perf_counter() - self._started
    sums = {name: np.sum([m[name] for m in fetched], 0) for name in fetched[0]}
    line = {name: float(total / max(count, 1)) for name, (total, count) in sums.items()}
    line["tokens_per_second"] = float(sums["loss"][1]) / seconds
    line["seconds"] = seconds
    self.write(step, "train", line)
    self._pending = []
    self.restart()

  def restart(self) -> None:
    """Starts the clock of the next line: validation is no training time."""
    self._started = time.perf_counter()

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Writes a line to the records, and to the terminal or log."""
    self._writer.write(step, split, metrics)
    rate = metrics.get("tokens_per_second")
    told = f"{split} loss {metrics['loss']:.4f}" + (
        f" {rate:,.0f} tokens/s" if rate else "")
    if self._bar.disable:
      print(f"step {step}/{self._bar.total} {told}", flush=True)
    elif split == "train":
      self._bar.set_postfix_str(told)
    else:
      self._bar.write(f"step {step}/{self._bar.total} {told}", file=sys.stderr)

  def close(self) -> None:
    self._bar.close()

  def _stop(self, step: int, loss: float):
    self._checkpoints.wait()
    last = self._checkpoints.last_step()
    kept = (f"The last good checkpoint is of step {last}." if last is not None
            else "No checkpoint was written before.")
    raise Diverged(
        f"The loss is {loss} at step {step}. {kept} Try a lower optim.lr, a longer"
        " optim.warmup_steps or optim.clip_norm in a new --workdir.")
