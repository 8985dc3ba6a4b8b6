"""Tests for every supported kind of Keras model, against Keras itself."""

import json

import jax
import numpy as np
import pytest

from tests.comparing import distance
from tests.maps import round_trip
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.generate import sampling
from transfer_gen.maps import mapped
from transfer_gen.models import registry

keras = pytest.importorskip("keras", reason="keras is not installed")

INPUTS = np.random.default_rng(0).integers(0, 11, (3, 6)).astype(np.int32)
_SEQ = {"return_sequences": True}


@pytest.fixture(autouse=True)
def _allow_rank_promotion():
  # Keras relies on implicit rank promotion, which the suite makes an error.
  with jax.numpy_rank_promotion("allow"):
    yield


def sequential(*layers, embed=5, size=11, length=None):
  shape = (length,) if embed else (length, size)
  table = [keras.layers.Embedding(size, embed)] if embed else []
  return keras.Sequential([keras.Input(shape), *table, *layers])


def dense(units=11, activation="softmax", **fields):
  return keras.layers.Dense(units, activation=activation, **fields)


def cell(kind="LSTM", units=4, **fields):
  return getattr(keras.layers, kind)(units, **{**_SEQ, **fields})


STACKS = {
    "lstm": lambda: sequential(cell(), cell(), dense()),
    "gru": lambda: sequential(cell("GRU"), dense(activation=None)),
    "rnn": lambda: sequential(cell("SimpleRNN"), cell("SimpleRNN"), dense()),
    "gru_before": lambda: sequential(
        cell("GRU", reset_after=False), cell("GRU", reset_after=False), dense()),
    "no_bias": lambda: sequential(
        cell("GRU", use_bias=False), dense(use_bias=False)),
    "hard": lambda: sequential(
        cell(recurrent_activation="hard_sigmoid"), dense()),
    "hidden_dense": lambda: sequential(
        cell(units=6), cell(units=3), keras.layers.Dropout(0.3),
        keras.layers.TimeDistributed(dense(7, "tanh")), dense(activation="linear"),
        keras.layers.Activation("softmax")),
    "one_hot": lambda: sequential(cell(), dense(), embed=0),
    "one_hot_rnn": lambda: sequential(cell("SimpleRNN"), dense(), embed=0),
    "window": lambda: sequential(
        cell(), cell(return_sequences=False), dense(), length=6),
    "both_ways": lambda: sequential(
        keras.layers.Bidirectional(cell()),
        keras.layers.Bidirectional(cell("LSTM", return_sequences=False)),
        dense(7, "relu"), dense(), length=6),
    "both_ways_gru": lambda: sequential(
        keras.layers.Bidirectional(cell("GRU", units=3, return_sequences=False)),
        dense(), length=6, embed=0),
}


def randomized(model):
  """Draws all weights at random, so that none is zero or negligible."""
  rng = np.random.default_rng(0)
  model.set_weights([
      rng.normal(size=weight.shape, scale=0.5) for weight in model.get_weights()])
  return model


def saved(model, folder, form):
  path = folder / f"model{form}"
  if form == ".weights.h5":
    model.save_weights(path)
    (folder / "config.json").write_text(model.to_json())
  else:
    model.save(path)
  return sources.open(path)


def ours(source, inputs, **kwargs):
  params = dict(source.read(list(source.specs)))
  module = registry.build(source.model)
  return np.asarray(module.apply({"params": tree.unflatten(params)}, inputs, **kwargs))


def theirs(model, inputs):
  """Returns logits up to a constant, as the log of the softmax that Keras returns."""
  if isinstance(inputs, np.ndarray) and len(model.inputs[0].shape) == 3:
    inputs = np.eye(11, dtype=np.float32)[inputs]
  out = np.float64(np.asarray(model(inputs)))
  last = model.layers[-1]
  return np.log(out) if getattr(last, "activation", None).__name__ == "softmax" else out


def distance_of_logits(ours, wanted):
  """Compares logits without their mean, which a softmax does not determine."""
  return distance(*(
      np.float64(x) - np.float64(x).mean(-1, keepdims=True) for x in (ours, wanted)))


@pytest.mark.parametrize("name, form", [
    *((name, ".keras") for name in STACKS),
    # The test below reads this form of all of them.
    *(pytest.param(name, ".h5", marks=() if name == "lstm" else pytest.mark.long)
      for name in STACKS),
    *((name, ".weights.h5") for name in ("lstm", "hidden_dense", "both_ways"))])
def test_a_stack_of_layers_matches_keras(name, form, tmp_path):
  model = randomized(STACKS[name]())

  source = saved(model, tmp_path, form)

  want = theirs(model, INPUTS)
  got = ours(source, INPUTS)
  assert distance_of_logits(got if want.ndim == 3 else got[:, -1], want) < 1e-5


@pytest.mark.parametrize("form", [
    pytest.param(".keras", marks=pytest.mark.long), ".h5"])
@pytest.mark.parametrize("name", STACKS)
def test_reading_and_writing_back_keeps_every_bit(name, form, tmp_path):
  source = saved(randomized(STACKS[name]()), tmp_path, form)

  round_trip.assert_bits_are_kept(source, dict(source.read(list(source.specs))))


@pytest.mark.parametrize("name", ["lstm", "gru_before", "one_hot", "both_ways"])
def test_greedy_generation_matches_keras(name, tmp_path):
  model = randomized(STACKS[name]())
  source = saved(model, tmp_path, ".keras")

  [new] = sampling.generate(
      registry.build(source.model), dict(source.read(list(source.specs))),
      [INPUTS[0].tolist()], decoding=config.Decoding(max_tokens=64))

  text = [*INPUTS[0].tolist(), *new]
  if source.model.window:
    read = np.array([text[i:i + 6] for i in range(64)])
    chances = theirs(model, read)
  else:  # The model is causal, so one pass gives the predictions of every step.
    chances = theirs(model, np.array([text[:-1]]))[0, 5:]
  assert len(new) == 64
  assert new == chances.argmax(-1).tolist()


def pair(both=False, kind="LSTM", embed=0):
  sizes, units = (7, 9), 4
  inputs = [keras.Input((None,) if embed else (None, size)) for size in sizes]
  read = [keras.layers.Embedding(size, embed)(x) if embed else x
          for size, x in zip(sizes, inputs)]
  encoder = cell(kind, units // (1 + both), return_sequences=False, return_state=True)
  if both:
    states = keras.layers.Bidirectional(encoder)(read[0])[1:]
    half = len(states) // 2
    states = [keras.layers.Concatenate()([states[i], states[half + i]])
              for i in range(half)]
  else:
    states = encoder(read[0])[1:]
  out = cell(kind, units, return_state=True)(read[1], initial_state=states)[0]
  return keras.Model(inputs, dense(sizes[1])(out))


@pytest.mark.parametrize("form", [
    ".keras", pytest.param(".h5", marks=pytest.mark.long)])
@pytest.mark.parametrize("fields", [
    {}, {"kind": "GRU"}, {"both": True}, {"both": True, "kind": "GRU", "embed": 3}],
    ids=str)
def test_an_encoder_decoder_matches_keras(fields, form, tmp_path):
  model = randomized(pair(**fields))
  rng = np.random.default_rng(1)
  texts = [rng.integers(0, size, (2, length)).astype(np.int32)
           for size, length in ((7, 5), (9, 4))]

  source = saved(model, tmp_path, form)

  hot = texts if fields.get("embed") else [
      np.eye(size, dtype=np.float32)[tokens] for size, tokens in zip((7, 9), texts)]
  got = ours(source, texts[1], encoder_inputs=texts[0])
  assert distance_of_logits(got, theirs(model, hot)) < 1e-5
  params = {name: np.asarray(value) for name, value in source.read(list(source.specs))}
  back = mapped.export(list(source.view.rows.values()), source.view.raw.specs, params)
  for leaf, value in source.view.raw.read(list(source.view.raw.specs)):
    np.testing.assert_array_equal(back[leaf], value)


@pytest.mark.parametrize("make, message", [
    (lambda: sequential(cell(activation="relu"), dense()), "activation is 'relu'"),
    (lambda: sequential(cell(), dense(activation="sigmoid")),
     "activation is 'sigmoid', and only 'softmax' or 'linear'"),
    (lambda: sequential(cell(recurrent_activation="tanh"), dense()),
     "recurrent_activation is 'tanh'"),
    (lambda: sequential(cell(go_backwards=True), dense()), "go_backwards is True"),
    (lambda: sequential(cell(), cell("GRU"), dense()), "cell 'lstm' and 'gru'"),
    (lambda: sequential(cell(), dense(8)), "reads 11 tokens .* predicts 8"),
    (lambda: sequential(cell(), dense(), dense(), dense()), "3 Dense layers"),
    (lambda: sequential(cell(), keras.layers.LayerNormalization(), dense()),
     "layer_normalization"),
    (lambda: sequential(keras.layers.Bidirectional(cell()), dense()),
     "return_sequences is True"),
    (lambda: sequential(keras.layers.Bidirectional(
        cell(return_sequences=False), merge_mode="sum"), dense(), length=6),
     "merge_mode is 'sum'"),
    (lambda: keras.Sequential([
        keras.Input((None,)), keras.layers.Embedding(11, 3, mask_zero=True), cell(),
        dense()]), "mask_zero is True"),
])
def test_unsupported_fields_are_refused_by_name(make, message, tmp_path):
  model = make()

  with pytest.raises(errors.UserError, match=message):
    saved(model, tmp_path, ".keras")


def _two(kind, **fields):
  """Returns the config of a model as files of Keras 2 contain it."""
  return {"class_name": "Sequential", "config": {"layers": [
      {"class_name": kind, "config": {
          "name": "cell_7", "batch_input_shape": [None, None, 11], "units": 4,
          "return_sequences": True, "dtype": "float32", "stateful": False, **fields}},
      {"class_name": "Dense", "config": {"name": "dense_1", "units": 11,
                                         "activation": "softmax", "use_bias": True}},
  ]}}


def write_two(path, config, weights):
  """Writes a file of Keras 2, in which the inner names have suffixes."""
  h5py = pytest.importorskip("h5py")
  with h5py.File(path, "w") as file:
    file.attrs["model_config"] = json.dumps(config)
    root = file.create_group("model_weights")
    root.attrs["layer_names"] = [name.encode() for name in weights]
    for layer, arrays in weights.items():
      group = root.create_group(layer)
      names = [f"{layer}_3/{name}_1:0" if name == "bias" else f"{layer}_3/{name}:0"
               for name in arrays]
      group.attrs["weight_names"] = [name.encode() for name in names]
      for name, value in zip(names, arrays.values()):
        group[name] = value
  return path


def as_cudnn(kernel, recurrent, bias, gates):
  """Returns weights in cuDNN's layout, the inverse of what Keras does on loading.

  Keras applies `kernel.T.reshape(shape, order="F")` to each gate.
  """
  per_gate = lambda kernel, change: np.hstack(
      [change(part) for part in np.hsplit(kernel, gates)])
  return {
      "kernel": per_gate(kernel, lambda part: part.ravel("F").reshape(part.shape)),
      "recurrent_kernel": per_gate(recurrent, lambda part: part.T), "bias": bias}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cudnn_layers_match_keras(kind, tmp_path):
  model = randomized(sequential(cell(kind), dense(), embed=0))
  kernel, recurrent, bias, *rest = model.get_weights()
  if kind == "LSTM":  # cuDNN has two biases, which are added.
    first = np.random.default_rng(3).normal(size=bias.shape).astype(np.float32)
    bias = np.stack([first, bias - first])
  weights = {
      "cell_7": as_cudnn(kernel, recurrent, bias.ravel(), {"LSTM": 4, "GRU": 3}[kind]),
      "dense_1": dict(zip(("kernel", "bias"), rest))}

  source = sources.open(write_two(
      tmp_path / "a.h5", _two(f"CuDNN{kind}"), weights))

  assert distance_of_logits(ours(source, INPUTS), theirs(model, INPUTS)) < 1e-5
  assert not np.array_equal(weights["cell_7"]["kernel"], kernel)


def test_hard_sigmoid_has_the_slope_of_its_keras_version(tmp_path):
  new = saved(STACKS["hard"](), tmp_path, ".h5")
  kernel, recurrent, bias, *rest = sequential(cell(), dense(), embed=0).get_weights()
  config = _two("LSTM", recurrent_activation="hard_sigmoid", implementation=1)

  old = sources.open(write_two(tmp_path / "old.h5", config, {
      "cell_7": {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias},
      "dense_1": dict(zip(("kernel", "bias"), rest))}))

  assert (new.model.gate, old.model.gate) == ("hard_sigmoid_3", "hard_sigmoid")


def test_weights_without_a_config_are_refused(tmp_path):
  STACKS["lstm"]().save_weights(tmp_path / "a.weights.h5")

  with pytest.raises(errors.UserError, match="config file must lie beside it"):
    sources.open(tmp_path / "a.weights.h5")
