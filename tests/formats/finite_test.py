"""Tests that values of a checkpoint that are not finite do not pass in silence."""

import json

import ml_dtypes
import numpy as np
import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen.formats import finite
from transfer_gen.models import registry

SIZES = {"vocab_size": 3, "embed_width": 2, "hidden_width": 2, "num_layers": 1}


@pytest.mark.parametrize("dtype", [
    np.float32, np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_what_is_not_finite_is_counted_and_located(dtype, caplog):
  value = np.ones((3, 4), dtype)
  finite.warn("a.npz", "x", value)
  assert not caplog.messages

  value[1, 2] = value[2, 0] = np.nan
  finite.warn("a.npz", "x", value)

  [message] = caplog.messages
  assert message.startswith(
      "a.npz: x has values that are not finite, 2 of 12, the first at [1, 2].")


@pytest.mark.parametrize("value", [
    np.full(3, 3e38, np.float32), np.zeros((0, 2), np.float32), np.array(1, np.float32),
    np.array([1, 2]), np.array([np.inf, 1.0])[1:]])
def test_what_is_finite_is_not_named_though_its_sum_may_not_be(value, caplog):
  finite.warn("a.npz", "x", value)

  assert not caplog.messages


def test_both_infinities_are_noticed_though_their_sum_is_no_infinity(caplog):
  finite.warn("a.npz", "x", np.array([np.inf, 0, -np.inf], np.float32))

  assert "2 of 3, the first at [0]" in caplog.text


def test_a_conversion_names_each_leaf_with_such_values_once(tmp_path, capsys, caplog):
  specs = registry.specs(registry.build(config.Recurrent(**SIZES)))
  leaves = {f"net/{name}": np.zeros(spec.shape, np.float32)
            for name, spec in specs.items()}
  leaves["net/head/kernel"][0, 1] = np.inf
  leaves["net/embed/embedding"][:] = np.nan
  np.savez(tmp_path / "model.npz", **leaves)
  (tmp_path / "map.json").write_text(json.dumps({
      "model": {"family": "Recurrent", **SIZES},
      "lines": [{"target": "(.*)", "source": r"net/\1"}]}))

  cli.run(capsys, "convert", f"--source={tmp_path}/model.npz",
          f"--map={tmp_path}/map.json", f"--output={tmp_path}/out")

  assert sorted(message.split(": ")[1].split(". They")[0]
                for message in caplog.messages if "not finite" in message) == [
      "net/embed/embedding has values that are not finite, 6 of 6, the first at [0, 0]",
      "net/head/kernel has values that are not finite, 1 of 6, the first at [0, 1]"]
