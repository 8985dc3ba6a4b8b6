"""Tests for paths that Orbax and TensorStore cannot take as they are."""

import os

from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import checkpoint


@pytest.mark.parametrize("name", [
    b"a*b", b"w[1]?", b"not-utf8-\xff", "\u00fc \n".encode()])
def test_a_checkpoint_lies_under_any_name_that_a_folder_can_have(tmp_path, name):
  workdir = tmp_path / os.fsdecode(name)
  params = {"w": jnp.arange(6.0)}
  checkpoints = checkpoint.Checkpoints(workdir)

  checkpoints.save(1, params, {"mu": params}, {
      "axes": {"w": {"axes": ["embed"], "reads": []}}})
  checkpoints.close()

  [(_, value)] = checkpoint.find(workdir).read(["w"])
  np.testing.assert_array_equal(value, params["w"])
  assert os.listdir(os.fsencode(tmp_path)) == [name]
