"""Tests for what a run keeps beside params and optimizer state."""

import dataclasses
import json

import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.run import assemble
from transfer_gen.run import device_plan
from transfer_gen.run import device_table
from transfer_gen.run import ledger
from transfer_gen.run import loop
from transfer_gen.train import loss_scale
from transfer_gen.transfer import plan as plan_lib


@pytest.fixture(name="text")
def _text(tmp_path):
  small_runs.write_lines(tmp_path / "text.txt")
  return tmp_path / "text.txt"


def _decoder(**fields):
  return config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32, **fields)


def test_a_float16_run_that_stopped_goes_on_with_its_loss_scale(
    text, tmp_path, monkeypatch):
  monkeypatch.setattr(loss_scale, "GROWTH", 3)
  run = small_runs.configure(text, _decoder(dtype="float16"), steps=8)

  loop.train(run, tmp_path / "whole")
  loop.train(run, tmp_path / "parts", stop=4)
  loop.train(run, tmp_path / "parts")

  assert_same_bits(
      small_runs.params(tmp_path / "whole"), small_runs.params(tmp_path / "parts"))
  scales = {name: [line["loss_scale"] for line in small_runs.metrics(tmp_path / name)
                   if line["split"] == "train"] for name in ("whole", "parts")}
  # Doubled after the third step and after the sixth; a line has the scale before it.
  assert scales["parts"] == scales["whole"] == [
      loss_scale.START * factor for factor in (1, 1, 1, 2, 2, 2, 4, 4)]


def test_a_run_whose_gradients_are_never_finite_is_ended(text, tmp_path, monkeypatch):
  monkeypatch.setattr(ledger, "_SKIPPED", 3)
  # Every scale from here on overflows, and the halves of it, too.
  monkeypatch.setattr(loss_scale, "START", 2.0**100)
  run = small_runs.configure(text, _decoder(dtype="float16"), steps=8)

  with pytest.raises(errors.UserError, match=(
      "At step 3 the gradients are not finite, as in the 2 steps before.*bfloat16")):
    loop.train(run, tmp_path / "run")


def test_a_run_in_another_dtype_has_nothing_beside(text, tmp_path):
  run = small_runs.configure(text, _decoder(dtype="bfloat16"), steps=2)

  loop.train(run, tmp_path / "run")

  assert {path.name for path in (tmp_path / "run" / "checkpoints" / "2").iterdir()
          if path.is_dir()} == {"params", "opt_state", "facts"}
  assert {value.dtype for value in small_runs.params(tmp_path / "run").values()} == {
      np.dtype(np.float32)}
  assert "loss_scale" not in json.dumps(small_runs.metrics(tmp_path / "run"))


def _averaged(text, **train):
  groups = (plan_lib.Group(name="late", params="layer_0/.*", unfreeze_step=4),
            plan_lib.Group(name="rest", params=".*"))
  run = small_runs.configure(
      text, _decoder(), steps=6, eval_every=3, checkpoint_every=1, lr=0.01,
      transfer=dataclasses.replace(plan_lib.SCRATCH, groups=groups))
  return run.with_values("train", keep=9, keep_best=9, **train)


def test_validations_and_best_params_are_those_of_the_average(text, tmp_path):
  """Compared with the average of the params of all steps, in float64."""
  loop.train(_averaged(text, ema=0.5), tmp_path / "ema")
  loop.train(_averaged(text, ema=0.5, ema_validates=False), tmp_path / "plain")
  loop.train(_averaged(text), tmp_path / "none")

  params = [small_runs.params(tmp_path / "ema", step) for step in range(1, 7)]
  # To a rounding: XLA may fuse the updates otherwise beside an average.
  for name, value in small_runs.params(tmp_path / "none", 6).items():
    np.testing.assert_allclose(params[-1][name], value, atol=1e-5, err_msg=name)
  # The params of the start are not stored, but those of a group that starts late are.
  best = small_runs.params(tmp_path / "ema")
  frozen = "layer_0/mlp/up/kernel"
  assert np.array_equal(params[0][frozen], params[3][frozen])
  want = np.float64(params[3][frozen])
  for step in (4, 5):
    decay = min(0.5, (1 + step) / (10 + step))
    want = decay * want + (1 - decay) * params[step][frozen]
  np.testing.assert_allclose(best[frozen], want, atol=1e-7)
  assert not np.allclose(best[frozen], params[-1][frozen], atol=1e-4)
  losses = {name: [line["loss"] for line in small_runs.metrics(tmp_path / name)
                   if line["split"] == "validation"] for name in (
                       "ema", "plain", "none")}
  np.testing.assert_allclose(losses["plain"], losses["none"], rtol=1e-5)
  assert not np.allclose(losses["ema"], losses["none"], rtol=1e-3)
  assert_same_bits(small_runs.params(tmp_path / "plain"),
                   small_runs.params(tmp_path / "plain", 6))


@pytest.mark.parametrize("stop", [3, pytest.param(5, marks=pytest.mark.long)])
def test_a_run_that_averages_goes_on_bit_for_bit(text, tmp_path, stop):
  run = _averaged(text, ema=0.9)

  loop.train(run, tmp_path / "whole")
  loop.train(run, tmp_path / "parts", stop=stop)
  loop.train(run, tmp_path / "parts")

  for step in (-1, 6):  # The best, which is an average, and the last.
    assert_same_bits(small_runs.params(tmp_path / "whole", step),
                     small_runs.params(tmp_path / "parts", step))
  lines = [[line["loss"] for line in small_runs.metrics(tmp_path / name)]
           for name in ("whole", "parts")]
  assert lines[0] == lines[1]


def test_a_plan_counts_the_average_of_what_learns(text, tmp_path):
  run = _averaged(text, ema=0.9)
  run.parallel.devices = 8
  run.parallel.fsdp = 2

  planned = device_plan.make(assemble.build(run, tmp_path / "plan"))

  # Adam has two moments for each leaf; each group has two counts.
  assert planned.taken.averages > 0
  assert planned.taken.optimizer == 2 * planned.taken.averages + 16
  assert planned.taken.state == (
      planned.taken.params + planned.taken.optimizer + planned.taken.averages)
  assert "averages of params" in "\n".join(device_table.lines(planned))
