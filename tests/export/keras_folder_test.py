"""Tests for recurrent models as Keras files, read by Keras, h5py and this package."""

import dataclasses

from etils import epath
import jax
import numpy as np
import pytest

from tests import random_models
from tests.comparing import assert_same_bits
from tests.comparing import distance
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.export import keras_folder
from transfer_gen.formats import hdf5_write
from transfer_gen.formats import keras_h5

BASE = config_lib.Recurrent(
    vocab_size=11, num_layers=2, embed_width=5, hidden_width=4, forget_bias=0.0)
INPUTS = np.random.default_rng(0).integers(0, 11, (3, 6)).astype(np.int32)
READ = np.random.default_rng(1).integers(0, 9, (3, 5)).astype(np.int32)
MODELS = {
    "lstm": {}, "gru": {"cell": "gru", "dense_width": 7},
    "gru_before": {"cell": "gru", "reset_after": False, "bias": False},
    "rnn_one_hot": {"cell": "rnn", "embed_width": 0},
    "widths": {"hidden_widths": (3, 6), "gate": "hard_sigmoid_3"},
    "both_ways": {"window": 6, "bidirectional": True},
    "pair": {"encoder": True, "num_layers": 1, "encoder_vocab_size": 9},
    "pair_one_hot": {"encoder": True, "num_layers": 1, "encoder_vocab_size": 9,
                     "embed_width": 0, "bidirectional": True, "cell": "gru"},
    "pair_of_stacks": {"encoder": True, "encoder_vocab_size": 9, "bidirectional": True,
                       "hidden_widths": (4, 6)},
}


@pytest.mark.parametrize("name", [
    name if number < 3 else pytest.param(name, marks=pytest.mark.long)
    for number, name in enumerate(MODELS)])
def test_keras_loads_the_file_and_computes_the_same_logits(name, tmp_path):
  keras = pytest.importorskip("keras", reason="keras is not installed")
  config = dataclasses.replace(BASE, **MODELS[name])
  module, params = random_models.build(config)

  keras_folder.write_folder(tmp_path, config, params, None)

  with jax.numpy_rank_promotion("allow"):
    theirs = keras.models.load_model(tmp_path / "model.keras")
    also = keras.models.model_from_json((tmp_path / "config.json").read_text())
    also.load_weights(tmp_path / "model.weights.h5")
    for one, other in zip(theirs.get_weights(), also.get_weights(), strict=True):
      np.testing.assert_array_equal(one, other)
    texts = [READ, INPUTS] if config.encoder else [INPUTS]
    if not config.embed_width:
      texts = [np.eye(size, dtype=np.float32)[x] for size, x in zip(
          (9, 11) if config.encoder else (11,), texts)]
    want = np.asarray(theirs(texts if config.encoder else texts[0]))
  read = {"encoder_inputs": READ} if config.encoder else {}
  got = np.asarray(module.apply({"params": tree.unflatten(params)}, INPUTS, **read))
  got = got[:, -1] if config.window else got
  assert distance(got, want) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_written_files_read_back_bit_for_bit(name, tmp_path):
  config = dataclasses.replace(BASE, **MODELS[name])
  _, params = random_models.build(config)

  keras_folder.write_folder(tmp_path, config, params, None)

  for file in ("model.weights.h5", "model.keras"):
    source = sources.open(tmp_path / file)
    assert_same_bits(dict(source.read(list(source.specs))), params)


@pytest.mark.parametrize("fields, message", [
    ({"forget_bias": 1.0}, "model.forget_bias is 1.0, and theirs would be 0.0"),
    ({"gate": "hard_sigmoid"}, "model.gate is 'hard_sigmoid'"),
    ({"recurrent_bias": True}, "model.recurrent_bias is True"),
    ({"attention": True}, "model.attention is True"),
    ({"dense_width": 3, "dense_activation": "gelu"}, "activation is 'gelu'"),
    ({"dtype": "bfloat16"}, "model.dtype is 'bfloat16'")])
def test_a_model_that_keras_cannot_express_is_refused(fields, message, tmp_path):
  config = dataclasses.replace(BASE, **fields)

  with pytest.raises(errors.UserError, match=message):
    keras_folder.write(
        tmp_path / "a.weights.h5", config, random_models.build(config)[1])

  assert not list(tmp_path.iterdir())


def test_a_file_name_without_the_keras_suffix_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="ends in .weights.h5"):
    keras_folder.write(tmp_path / "a.h5", BASE, {})


def test_hdf5_arrays_of_every_dtype_and_shape_read_back(tmp_path):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  rng = np.random.default_rng(0)
  arrays = {
      "a/b/0": rng.normal(size=(3, 4)).astype(np.float32), "a/b/1": np.arange(5),
      "a/c": np.array(0.1), "é/x": np.arange(3, dtype=np.uint8),
      "half": np.zeros((2, 1), np.float16), "turned": np.arange(6.0).reshape(2, 3).T,
      **{f"many/{i}": np.array(i, np.int32) for i in range(300)}}
  path = epath.Path(tmp_path / "a.weights.h5")

  hdf5_write.write(path, arrays)

  ours = keras_h5.open_file(path)
  assert ours.specs.keys() == arrays.keys()
  with h5py.File(path) as file:
    for name, value in ours.read(list(arrays)):
      np.testing.assert_array_equal(file[name][()], arrays[name])
      np.testing.assert_array_equal(value, arrays[name])
      assert file[name].dtype == value.dtype == arrays[name].dtype


def test_hdf5_groups_store_text_attributes(tmp_path):
  h5py = pytest.importorskip("h5py", reason="h5py is not installed")
  path = epath.Path(tmp_path / "a.h5")

  hdf5_write.write(path, {"a/b/x:0": np.ones(2)}, {
      "": {"layer_names": ["a", "émpty"], "keras_version": "2.1.5"},
      "a": {"weight_names": ["b/x:0"]}, "émpty": {"weight_names": []}})

  with h5py.File(path) as file:
    assert [name.decode() for name in file.attrs["layer_names"]] == ["a", "émpty"]
    assert file.attrs["keras_version"] == b"2.1.5"
    assert file["a"].attrs["weight_names"].tolist() == [b"b/x:0"]
    assert file["émpty"].attrs["weight_names"].tolist() == []
    assert len(file["émpty"]) == 0 and file["a/b/x:0"][()].tolist() == [1, 1]
  with pytest.raises(errors.UserError, match="a is an array and a group"):
    hdf5_write.write(path, {"a": np.ones(2)}, {"a/b": {}})


@pytest.mark.parametrize("arrays, message", [
    ({"a": np.zeros(1), "a/b": np.zeros(1)}, "a is an array and a group"),
    ({"a/b": np.zeros(1), "a": np.zeros(1)}, "a is an array and a group"),
    ({"a": np.array(["x"])}, "hold no <U1")])
def test_arrays_that_hdf5_cannot_store_are_refused(arrays, message, tmp_path):
  with pytest.raises(errors.UserError, match=message):
    hdf5_write.write(epath.Path(tmp_path / "a.h5"), arrays)
