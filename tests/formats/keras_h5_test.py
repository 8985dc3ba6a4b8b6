"""Tests for Keras weights of old and new formats, against h5py and Keras."""

import json

import h5py
import jax
import numpy as np
import pytest

from tests import paths
from transfer_gen import errors
from transfer_gen.formats import detect

TEXTGENRNN = paths.DATA / "textgenrnn"


def _random(*shape, dtype=np.float32):
  return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def _read(path):
  source = detect.opener_of(path)()
  read = dict(source.read(list(source.specs)))
  for name, value in read.items():
    assert (value.shape, value.dtype) == (
        source.specs[name].shape, source.specs[name].dtype)
  return read


def _old(path, layers, root=""):
  """Writes a file in the format of Keras 2 from {layer: {weight name: array}}."""
  with h5py.File(path, "w") as file:
    group = file.create_group(root) if root else file
    group.attrs["layer_names"] = np.array([n.encode() for n in layers])
    for layer, weights in layers.items():
      inner = group.create_group(layer)
      inner.attrs["weight_names"] = np.array([n.encode() for n in weights], dtype="S99")
      for name, value in weights.items():
        inner.create_dataset(name, data=value)
    # Keras 2 stored optimizer state in the file too; it must not be read as weights.
    slots = file.create_group("optimizer_weights")
    slots.attrs["weight_names"] = np.array([b"adam/m:0"])
    slots.create_dataset("adam/m:0", data=_random(3))


@pytest.mark.parametrize("root", ["", "model_weights"])
def test_keras_2_weights_are_found_by_the_weight_names_attribute(tmp_path, root):
  kernels = {i: _random(2, i + 1) for i in range(6)}
  _old(tmp_path / "x.h5", {
      "rnn_1": {"rnn_1_3/kernel:0": kernels[0], "rnn_1_3/bias:0": kernels[1]},
      "flat": {},
      "both": {"both/forward_lstm_2/kernel:0": kernels[2],
               "both/backward_lstm_2/kernel:0": kernels[3]},
      "nested": {"dense_1/kernel:0": kernels[4], "dense_2/kernel:0": kernels[5]},
  }, root)

  read = _read(tmp_path / "x.h5")

  assert list(read) == [
      "rnn_1/kernel", "rnn_1/bias", "both/forward_lstm/kernel",
      "both/backward_lstm/kernel", "nested/dense_1/kernel", "nested/dense_2/kernel"]
  for value, kernel in zip(read.values(), kernels.values()):
    np.testing.assert_array_equal(value, kernel)


def test_a_name_list_split_over_attributes_is_joined(tmp_path):
  with h5py.File(tmp_path / "x.hdf5", "w") as file:
    names = [f"layer_{i}" for i in range(7)]
    file.attrs["layer_names0"] = np.array(names[:4], "S9")
    file.attrs["layer_names1"] = np.array(names[4:], "S9")
    for i, name in enumerate(names):
      group = file.create_group(name)
      # h5py stores a list of Python strings as text of variable length.
      group.attrs["weight_names"] = [f"{name}/bias:0"]
      group.create_dataset(f"{name}/bias:0", data=_random(i + 1))

  read = _read(tmp_path / "x.hdf5")

  assert [(n, x.shape) for n, x in read.items()] == [
      (f"layer_{i}/bias", (i + 1,)) for i in range(7)]


@pytest.mark.parametrize("options", [
    {}, {"chunks": (4, 3)}, {"chunks": (4, 3), "compression": "gzip"},
    {"chunks": (8, 5), "compression": "gzip", "shuffle": True, "fletcher32": True}])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i4", "u1"])
def test_every_storage_layout_of_an_array_is_read(tmp_path, options, dtype):
  value = (10 * _random(9, 7)).astype(dtype)
  with h5py.File(tmp_path / "x.h5", "w") as file:
    file.create_dataset("layers/dense/vars/0", data=value, **options)

  read, = _read(tmp_path / "x.h5").values()

  np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize("options", [
    {}, {"maxshape": (None, 3)},
    {"maxshape": (None, 3), "chunks": (4, 3), "compression": "gzip"}])
def test_an_empty_array_is_read(tmp_path, options):
  with h5py.File(tmp_path / "x.h5", "w") as file:
    file.create_dataset("vars/0", data=np.zeros((0, 3), np.float32), **options)
    file["vars/1"] = _random(2)

  read = _read(tmp_path / "x.h5")

  assert read["vars/0"].shape == (0, 3) and read["vars/1"].shape == (2,)


@pytest.mark.parametrize("options, message", [
    ({}, r"an array \(4, 3\) of it was never written"),
    ({"chunks": (2, 3)}, "0 of 2 chunks of an array are there")])
def test_an_array_that_was_never_written_is_refused_by_name(
    tmp_path, options, message):
  with h5py.File(tmp_path / "x.h5", "w") as file:
    file.create_dataset("vars/0", shape=(4, 3), dtype=np.float32, **options)

  with pytest.raises(errors.UserError, match=message):
    _read(tmp_path / "x.h5")


def test_a_group_with_hundreds_of_objects_is_read(tmp_path):
  # So many names do not fit into one node of the B-tree that HDF5 makes for a group.
  with h5py.File(tmp_path / "x.h5", "w") as file:
    for i in range(700):
      file[f"layers/dense/vars/{i}"] = np.full((2,), i, np.float32)

  read = _read(tmp_path / "x.h5")

  assert list(read) == [f"layers/dense/vars/{i}" for i in range(700)]
  assert all(x[1] == i for i, x in enumerate(read.values()))


@pytest.fixture(name="model", scope="module")
def _model():
  keras = pytest.importorskip("keras")
  layers = keras.layers
  with jax.numpy_rank_promotion("allow"):
    model = keras.Sequential([
        layers.Input((5,)), layers.Embedding(7, 4),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.GRU(3, return_sequences=True), layers.SimpleRNN(2), layers.Dense(7)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
  return model


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras", "m.h5"])
def test_models_saved_by_keras_are_read(tmp_path, model, name):
  path = tmp_path / name
  model.save_weights(path) if "weights" in name else model.save(path)

  read = _read(path)

  assert len(read) == len(model.weights)  # The optimizer state is not among them.
  left = list(read.values())
  for weight in model.weights:
    index = next(i for i, value in enumerate(left)
                 if value.shape == weight.shape and (value == np.asarray(weight)).all())
    left.pop(index)
  # The name depends on how many layers this process has made before.
  last = model.layers[-1].name
  dense = f"{last}/kernel" if name == "m.h5" else "layers/dense/vars/0"
  np.testing.assert_array_equal(read[dense], np.asarray(model.layers[-1].kernel))
  if "weights" not in name:
    assert detect.opener_of(path)().facts["model_config"]["class_name"] == "Sequential"


@pytest.mark.parametrize("make, why", [
    (lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/passwd", "x")), "links"),
    (lambda f: f.__setitem__("a", h5py.SoftLink("/b")), "links"),
    (lambda f: f.create_dataset("a", data="text"), "no plain numbers"),
    (lambda f: f.create_dataset("a", data=np.zeros(2, [("x", "f4")])), "no plain"),
    (lambda f: f.create_dataset("a", (4,), "f4"), "was never written"),
    (lambda f: f.create_dataset("a", (4,), "f4", external=[("elsewhere", 0, 16)]),
     "lies in another file"),
    (lambda f: f.create_dataset("a", data=np.zeros((4, 4)), chunks=(2, 2),
                                compression="lzf"), "filter 32000"),
    (lambda f: f.create_group("a"), "holds no weights"),
])
def test_objects_other_than_plain_arrays_are_refused(tmp_path, make, why):
  with h5py.File(tmp_path / "x.h5", "w") as file:
    make(file)

  with pytest.raises(errors.UserError, match=why):
    _read(tmp_path / "x.h5")


def test_dense_group_storage_is_refused_by_name(tmp_path):
  with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
    for i in range(20):
      file[f"layers/{i}"] = np.zeros(2, np.float32)

  with pytest.raises(errors.UserError, match="is dense, which is not read"):
    detect.opener_of(tmp_path / "x.h5")()


def test_newer_object_headers_are_read(tmp_path):
  with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
    file.attrs["layer_names"] = np.array([b"dense"])
    group = file.create_group("dense", track_order=True)
    group.attrs["weight_names"] = ["kernel:0", "bias:0"]
    group["kernel:0"], group["bias:0"] = _random(3, 4), _random(4)

  read = _read(tmp_path / "x.h5")

  np.testing.assert_array_equal(read["dense/kernel"], _random(3, 4))
  np.testing.assert_array_equal(read["dense/bias"], _random(4))


@paths.needs(TEXTGENRNN)
def test_a_real_model_of_keras_2_is_read():
  path = TEXTGENRNN / "textgenrnn_weights.hdf5"
  vocabulary = json.loads((path.parent / "textgenrnn_vocab.json").read_text())

  read = _read(path)

  assert list(read) == [
      "embedding/embeddings", "rnn_1/kernel", "rnn_1/recurrent_kernel", "rnn_1/bias",
      "rnn_2/kernel", "rnn_2/recurrent_kernel", "rnn_2/bias", "attention/attention_W",
      "output/kernel", "output/bias"]
  assert len(read["output/bias"]) == len(vocabulary) + 1
  with h5py.File(path) as file:
    np.testing.assert_array_equal(
        read["rnn_2/recurrent_kernel"], file["rnn_2/rnn_2/recurrent_kernel:0"])
    np.testing.assert_array_equal(
        read["attention/attention_W"], file["attention/attention/attention_W:0"])
