"""Tests for what a run keeps beside params and optimizer state."""

import json

import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.run import ledger
from transfer_gen.run import loop
from transfer_gen.train import loss_scale


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
