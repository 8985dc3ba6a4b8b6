"""Metrics of steps: fetched now and then, checked, written and shown."""

from collections.abc import Mapping
import sys
import time
from typing import Any

import jax
import numpy as np
import tqdm

from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen.run import records


class Diverged(errors.UserError):
  """The loss is not finite any more."""


class Ledger:
  """Metrics of steps that were not written yet, and are still on the device.

  A step returns before its metrics are computed. Fetching them only where a line is due
  lets the device run ahead.
  """

  def __init__(
      self, writer: records.MetricsWriter, checkpoints: checkpoint.Checkpoints,
      done: int, steps: int):
    """Begins after `done` of `steps` steps."""
    self._writer, self._checkpoints = writer, checkpoints
    self._pending = []
    self.restart()
    self._bar = tqdm.tqdm(
        total=steps, initial=done, unit="step",
        dynamic_ncols=True, disable=None if sys.stderr.isatty() else True)

  def add(self, metrics: Any) -> None:
    """Adds the metrics of a step."""
    self._pending.append(metrics)
    self._bar.update()

  def settle(self, step: int) -> None:
    """Fetches what is pending and writes its line.

    Raises:
      errors.UserError: If a loss is not finite.
    """
    # One transfer for all pending steps. This is where the host waits for the device.
    fetched = jax.device_get(self._pending)
    # Every step is looked at, and not only their sum, so that the message names the
    # step at which the loss was not finite first.
    losses = [total / max(count, 1.0) for total, count in
              (metrics["loss"] for metrics in fetched)]
    for i, loss in enumerate(losses):
      if not np.isfinite(loss):
        self._stop(step - len(losses) + i + 1, float(loss))
    seconds = time.perf_counter() - self._started
    # Totals and counts are added up before they are divided: batches hold different
    # numbers of targets, and a mean of means would weigh them alike.
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
    shown = f"{split} loss {metrics['loss']:.4f}" + (
        f" {rate:,.0f} tokens/s" if rate else "")
    # In a log, each line is printed as it comes. On a terminal, training lines stay
    # within the bar and validations scroll above it.
    if self._bar.disable:
      print(f"step {step}/{self._bar.total} {shown}", flush=True)
    elif split == "train":
      self._bar.set_postfix_str(shown)
    else:
      self._bar.write(f"step {step}/{self._bar.total} {shown}", file=sys.stderr)

  def close(self) -> None:
    """Removes the progress bar."""
    self._bar.close()

  def _stop(self, step: int, loss: float) -> None:
    # A checkpoint that is still being written is complete after this, and counts.
    self._checkpoints.wait()
    last = self._checkpoints.last_step()
    kept = (f"The last good checkpoint is of step {last}." if last is not None
            else "No checkpoint was written before.")
    raise Diverged(
        f"The loss is {loss} at step {step}. {kept} Try a lower optim.lr, a longer"
        " optim.warmup_steps or optim.clip_norm in a new --workdir.")
