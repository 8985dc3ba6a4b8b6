"""Metrics of steps: fetched now and then, checked, written and shown."""

import collections
from collections.abc import Mapping, Sequence
import math
import time
from typing import Any, NoReturn

import jax
import numpy as np

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import progress
from transfer_gen.metrics import measures
from transfer_gen.run import records

# Each halves the loss scale of `train.loss_scale`, which is below 1e-10 after as many.
_SKIPPED = 50


# A class of its own, so that a search can drop the candidate and go on.
class Diverged(errors.UserError):
  """The loss or the params are not finite any more."""


class Ledger:
  """Metrics of steps that were not written yet, and are still on the device.

  A step returns before its metrics are computed. Fetching them only where a line is due
  lets the device run ahead.
  """

  def __init__(
      self, writer: records.MetricsWriter, checkpoints: checkpoint.Checkpoints,
      done: int, train: config_lib.Train,
      pending: Sequence[Mapping[str, Sequence[float]]] = ()):
    """Begins after `done` of the steps that `train` asks for.

    Args:
      writer: Writes the lines.
      checkpoints: The checkpoints of the run.
      done: Number of steps that were taken before.
      train: Says how many steps there are, and how often lines are due.
      pending: What `pending` returned in the process that took them.
    """
    self._writer, self._checkpoints, self._train = writer, checkpoints, train
    # Two lists: a loss leaves `_running` once it is computed, and shows progress, while
    # all metrics of its step stay pending until a line is due.
    self._pending = [{name: np.asarray(sums, np.float32)
                      for name, sums in metrics.items()} for metrics in pending]
    self._running = collections.deque()
    # Lines have their own rhythm, so the progress itself prints none into a log.
    self._work = progress.Progress(
        "training", train.steps, "step", done, every=math.inf)
    self._pace = self._validating = 0.0  # Seconds of a step, and of a validation.
    self._skipped = 0  # Steps in a row that a loss scale skipped.
    self.restart()

  def add(self, metrics: Any, at_peak: float | None = None) -> None:
    """Adds the metrics of a step.

    Args:
      metrics: The metrics.
      at_peak: Seconds that it would take if the devices reached their peaks, if known.
    """
    self._pending.append(metrics)
    self._at_peak += at_peak or 0.0
    self._running.append(metrics["loss"][0])
    # The bar counts steps that the device has finished, and not those that it was
    # given, which may be many more. Asking does not wait for it.
    while self._running and self._running[0].is_ready():
      self._running.popleft()
      self._work.advance()

  def settle(self, step: int) -> None:
    """Fetches what is pending and writes its line.

    Raises:
      errors.UserError: If a loss is not finite.
    """
    fetched = self._fetch(step)
    seconds = time.perf_counter() - self._started
    # Totals and counts are added up before they are divided: batches hold different
    # numbers of targets, and a mean of means would weigh them alike.
    sums = {name: np.sum([m[name] for m in fetched], 0) for name in fetched[0]}
    line = {name: float(total / max(count, 1)) for name, (total, count) in sums.items()}
    line["tokens_per_second"] = float(sums["loss"][1]) / seconds
    line["seconds"] = seconds
    worked = self._worked()
    if self._at_peak:
      line["mfu"] = self._at_peak / worked
    self._pace = worked / len(fetched)
    self._writer.write(step, "train", line)
    self._show(step, f"loss {line['loss']:.4f},"
               f" {float(sums['loss'][1]) / worked:,.0f} tokens/s, {self._left(step)}")
    self._pending = []
    self.restart()

  def pending(self, step: int) -> list[dict[str, list[float]]]:
    """Returns the metrics that no line has yet, as JSON types.

    A run that is interrupted between two lines goes on with them, and so writes the
    lines of an uninterrupted one.

    Raises:
      errors.UserError: If a loss is not finite.
    """
    self._pending = self._fetch(step)
    return [{name: [float(value) for value in sums] for name, sums in metrics.items()}
            for metrics in self._pending]

  def check(self, step: int, params: Mapping[str, jax.Array]) -> None:
    """Checks params before they are saved.

    Raises:
      Diverged: If some are not finite: a loss is that of the params before its update.
    """
    if bad := checkpoint.not_finite(params):
      self._stop(step, f"After step {step}, {len(bad)} of {len(params)} leaves are not"
                 f" finite, such as {bad[0]}.")

  def validated(self, step: int, scores: Mapping[str, float], best: bool) -> None:
    """Writes the line of a validation.

    Args:
      step: Its step.
      scores: Its metrics by name.
      best: Whether no validation was better so far.
    """
    self._validating = self._worked()
    self._writer.write(step, "validation", scores)
    # What the loss says in other units is left to the records.
    others = [name for name in scores if name in measures.METRICS
              and measures.METRICS[name].needs != measures.LOSSES]
    shown = "".join(f", {name} {measures.shown(name, scores[name])}" for name in others)
    self._show(step, f"validation loss {scores['loss']:.4f}{shown}"
               + (" (best so far)" if best else ""), scrolls=True)

  def restart(self) -> None:
    """Starts the clock of the next line: validation is no training time."""
    self._started, self._at_peak = time.perf_counter(), 0.0
    self._compiled = self._work.compile_seconds

  def close(self) -> None:
    """Removes the progress bar."""
    self._work.close()

  def _fetch(self, step: int) -> list[dict[str, Any]]:
    """Returns the metrics of all pending steps, the last of which is `step`."""
    # One transfer for all pending steps. This is where the host waits for the device.
    fetched = jax.device_get(self._pending)
    self._work.advance(len(self._running))
    self._running.clear()
    # Every step is looked at, and not only their sum, so that the message names the
    # step at which the loss was not finite first.
    losses = [total / max(count, 1.0) for total, count in
              (metrics["loss"] for metrics in fetched)]
    for i, loss in enumerate(losses):
      first = step - len(losses) + i + 1
      if not np.isfinite(loss):
        # The params of the update before gave this loss.
        self._stop(first - 1, f"The loss is {float(loss)} at step {first}.")
      self._skipped = self._skipped + 1 if fetched[i].get("skipped", [0])[0] else 0
      if self._skipped == _SKIPPED:
        self._stop(first, f"At step {first} the gradients are not finite, as in the"
                   f" {_SKIPPED - 1} steps before, whatever the loss scale is."
                   " model.dtype=bfloat16 has the range of float32.")
    return fetched

  def _show(self, step: int, text: str, scrolls: bool = False) -> None:
    # In a log, each line is printed as it comes. On a terminal, training lines stay
    # within the bar, which knows the step, and validations scroll above it.
    if not self._work.on_terminal:
      print(f"step {step}/{self._train.steps}: {text}", flush=True)
    elif scrolls:
      self._work.say(f"step {step}/{self._train.steps}: {text}")
    else:
      self._work.note(text)

  def _worked(self) -> float:
    """Returns the seconds since `restart`, without those of compiling."""
    # Compiling is done once, and says nothing of the work to come.
    compiled = self._work.compile_seconds - self._compiled
    return max(time.perf_counter() - self._started - compiled, 1e-3)

  def _left(self, step: int) -> str:
    """Returns how much time is left, with that of validations."""
    # The last step always validates.
    validations = math.ceil(self._train.steps / self._train.eval_every) - (
        step - 1) // self._train.eval_every
    seconds = (self._train.steps - step) * self._pace + validations * self._validating
    return f"{progress.duration(seconds)} left"

  def _stop(self, bad: int, what: str) -> NoReturn:
    """Removes the checkpoint of a step if there is one, and raises."""
    # A checkpoint that is still being written is complete after this, and counts.
    self._checkpoints.wait()
    removed = self._checkpoints.remove(bad)
    last = self._checkpoints.last_step()
    kept = (f"The last good checkpoint is of step {last}." if last is not None
            else "There is no good checkpoint.")
    if removed:
      kept = f"The checkpoint of step {bad}, which led there, was removed. {kept}"
    raise Diverged(
        f"{what} {kept} Try a lower optim.lr, a longer optim.warmup_steps or"
        " optim.clip_norm in a new --workdir.")
