"""Tests for what training shows while it runs."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from transfer_gen import checkpoint
from transfer_gen import config
from transfer_gen.run import ledger as ledger_lib
from transfer_gen.run import loop
from transfer_gen.run import records


def test_each_line_of_a_log_has_the_step_the_loss_the_rate_and_the_time_left(
    tmp_path, capsys):
  small_runs.write_lines(tmp_path / "text.txt")
  run = small_runs.configure(
      tmp_path / "text.txt", small_runs.DECODER, steps=5, log_every=2, eval_every=4)

  loop.train(run, tmp_path / "w")

  lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
  loss, rate, left = r"loss \d\.\d{4}", r"[\d,]+ tokens/s", r"\d+ (s|min) left"
  for line, pattern in zip(lines, (
      f"step 2/5: {loss}, {rate}, {left}", f"step 4/5: {loss}, {rate}, {left}",
      rf"step 4/5: validation {loss} \(best so far\)",
      f"step 5/5: {loss}, {rate}, {left}", f"step 5/5: validation {loss}.*"),
      strict=True):
    assert re.fullmatch(pattern, line), line
  # The numbers are those of the records.
  recorded = small_runs.metrics(tmp_path / "w")
  assert f"{recorded[0]['loss']:.4f}" in lines[0]


@pytest.fixture
def saved(tmp_path):
  """A ledger beside checkpoints of the steps 2 and 4, the latter also the best."""
  checkpoints = checkpoint.Checkpoints(tmp_path)
  params = {"bias": np.ones(2, np.float32)}
  for step in (2, 4):
    checkpoints.save(step, params, {"count": np.ones(2, np.float32)}, {})
    checkpoints.save_best(step, params, {"axes": {}})
  writer = records.MetricsWriter(tmp_path, 4, True)
  ledger = ledger_lib.Ledger(writer, checkpoints, 4, config.Train(steps=9))
  yield ledger, checkpoints
  ledger.close(), writer.close(), checkpoints.close()


def metrics(loss):
  return {"loss": jnp.array([loss, 1.0])}


def test_a_checkpoint_whose_params_gave_no_finite_loss_is_not_good(saved):
  ledger, checkpoints = saved
  for loss in (float("nan"), 1.0):
    ledger.add(metrics(loss))

  with pytest.raises(ledger_lib.Diverged, match=(
      "The loss is nan at step 5. The checkpoint of step 4, which led there, was"
      " removed. The last good checkpoint is of step 2.")):
    ledger.settle(6)
  assert checkpoints.last_step() == 2 and not checkpoints.remove(4)


def test_a_checkpoint_before_a_finite_loss_stays(saved):
  ledger, checkpoints = saved
  for loss in (1.0, float("inf")):
    ledger.add(metrics(loss))

  with pytest.raises(ledger_lib.Diverged, match=(
      "The loss is inf at step 6. The last good checkpoint is of step 4.")):
    ledger.settle(6)
  assert checkpoints.last_step() == 4


def test_params_that_are_not_finite_are_not_saved(saved):
  ledger, checkpoints = saved
  ledger.check(6, {"a": jnp.ones(3), "n": jnp.ones(2, jnp.int32)})

  with pytest.raises(ledger_lib.Diverged, match=(
      "After step 6, 1 of 2 leaves are not finite, such as b. The last good checkpoint"
      " is of step 4.")):
    ledger.check(6, {"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])})
