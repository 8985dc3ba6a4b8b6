"""Tests of what lies at a path: a run, or a checkpoint of another framework."""

import numpy as np
import pytest

from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen import sources


def make_run(folder):
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save_best(7, {"head/bias": np.zeros(4, np.float32)}, {
      "axes": {"head/bias": {"axes": ["vocab"], "reads": []}}})
  checkpoints.close()


@pytest.mark.parametrize("beside", ["1", "checkpoints", "checkpoints/2", "best"])
def test_folders_beside_a_checkpoint_of_others_make_it_no_run(tmp_path, beside):
  (tmp_path / beside).mkdir(parents=True)
  (tmp_path / beside / "optimizer.txt").write_text("x")
  np.save(tmp_path / "bias.npy", np.zeros(4, np.float32))

  assert sources.is_foreign(tmp_path)
  assert set(sources.leaves(tmp_path)[1]) == {"bias"}


@pytest.mark.parametrize("part", [
    "", "checkpoints", "checkpoints/best", "checkpoints/best/7"])
def test_a_run_and_its_parts_are_ours_whatever_lies_beside(tmp_path, part):
  make_run(tmp_path)
  np.save(tmp_path / "bias.npy", np.zeros(4, np.float32))

  assert not sources.is_foreign(tmp_path / part)
  assert sources.open(tmp_path / part).step == 7


def test_a_run_without_a_checkpoint_is_no_source(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(errors.UserError, match="holds no checkpoint"):
    sources.open(tmp_path)
