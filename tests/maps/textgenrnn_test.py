"""Tests for textgenrnn's models, against float64 NumPy and the published weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import paths
from tests.commands import cli
from tests.comparing import distance
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.data import tokenizer_kinds
from transfer_gen.export import convert
from transfer_gen.export import keras_folder
from transfer_gen.formats import detect
from transfer_gen.generate import sampling
from transfer_gen.maps import mapped
from transfer_gen.maps import textgenrnn_out
from transfer_gen.models import registry
from transfer_gen.run import reader
from transfer_gen.run import trained

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

REAL = paths.DATA / "textgenrnn"
needs_real_files = paths.needs(REAL)
SIZE, WIDTH, UNITS = 9, 5, 3


def write(path, layers):
  """Writes a file of Keras 2: one group per layer, with its weight names in order."""
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = [name.encode() for name in layers]
    for layer, arrays in layers.items():
      group = file.create_group(layer)
      names = [f"{layer}_1/{name}:0" for name in arrays]
      group.attrs["weight_names"] = [name.encode() for name in names]
      for name, value in zip(names, arrays.values()):
        group[name] = value
  return path


def small(num_layers=2, cudnn=False, gates=4, attention=True, both=False):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  names = [f"rnn_{i + 1}" for i in range(num_layers)] if attention else ["rnn"]
  layers, width, total = {"embedding": {"embeddings": draw(SIZE, WIDTH)}}, WIDTH, WIDTH
  for name in names:
    layers[name] = {}
    for way in (("forward_lstm/", "backward_lstm/") if both else ("",)):
      layers[name] |= {
          f"{way}kernel": draw(width, gates * UNITS),
          f"{way}recurrent_kernel": draw(UNITS, gates * UNITS),
          f"{way}bias": draw(gates * UNITS * (1 + cudnn))}
    width = UNITS * (1 + both)
    total += width
  if attention:
    layers["attention"] = {"attention_W": draw(total, 1)}
  layers["output"] = {"kernel": draw(total if attention else width, SIZE),
                      "bias": draw(SIZE)}
  return layers


def uncudnn(arrays, gates=4):
  """Returns the weights of a cuDNN layer in the layout of Keras, gate by gate."""
  def per_gate(kernel, change):
    return np.hstack([change(part) for part in np.hsplit(kernel, gates)])
  kernel = per_gate(
      arrays["kernel"], lambda part: part.T.reshape(part.shape, order="F"))
  recurrent = per_gate(arrays["recurrent_kernel"], lambda part: part.T)
  return kernel, recurrent, arrays["bias"].reshape(2, -1)


def lstm(xs, kernel, recurrent, bias):
  """Returns the states of Keras's LSTM in float64; its gates are i, f, c, o."""
  kernel, recurrent, bias = map(np.float64, (kernel, recurrent, bias))
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  h = c = np.zeros(len(recurrent))
  out = []
  for x in xs:
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    out.append(h)
  return np.array(out)


def logits_of(layers, text, window=40, cudnn=False, both=False):
  """Returns the logits of the next token, which see only the last `window` tokens."""
  text = ([0] * window + list(text))[-window:]
  x = np.float64(layers["embedding"]["embeddings"])[text]
  seen = [x]
  for name in ("rnn_1", "rnn_2"):
    arrays = layers[name]
    if both:
      part = lambda way, arrays=arrays: [
          arrays[f"{way}_lstm/{leaf}"]
          for leaf in ("kernel", "recurrent_kernel", "bias")]
      x = np.concatenate([lstm(x, *part("forward")),
                          lstm(x[::-1], *part("backward"))[::-1]], axis=1)
    elif cudnn:
      kernel, recurrent, bias = uncudnn(arrays)
      x = lstm(x, kernel, recurrent, bias.sum(0))
    else:
      x = lstm(x, *arrays.values())
    seen.append(x)
  seen = np.concatenate(seen, axis=1)
  scores = np.exp(seen @ np.float64(layers["attention"]["attention_W"])[:, 0])
  mean = scores / scores.sum() @ seen
  return mean @ np.float64(layers["output"]["kernel"]) + layers["output"]["bias"]


def layers_of(path):
  """Returns the weights of a file by layer, and in it by their names."""
  with h5py.File(path) as file:
    return {name: {leaf.decode().split("/")[-1].split(":")[0]: group[leaf][()]
                   for leaf in group.attrs["weight_names"]}
            for name, group in file.items()}


def load(path, **kwargs):
  source = sources.open(path, **kwargs)
  return source, registry.build(source.model), dict(source.read(list(source.specs)))


@pytest.mark.parametrize("fields", [{}, {"cudnn": True}, {"both": True}], ids=str)
def test_logits_match_a_float64_reference_of_the_published_code(fields, tmp_path):
  layers, text = small(**fields), [3, 1, 4, 1, 5, 8]
  (tmp_path / "my_config.json").write_text(json.dumps({
      "max_length": 4, "rnn_layers": 2, "rnn_bidirectional": bool(fields.get("both"))}))

  source, module, params = load(write(tmp_path / "my_weights.hdf5", layers))

  got = module.apply({"params": tree.unflatten(params)}, np.array([text]))[0]
  want = [logits_of(layers, text[:t + 1], 4, **fields) for t in range(6)]
  assert source.model.window == 4
  assert distance(got, want) < 1e-5
  back = mapped.export(list(source.view.rows.values()), source.view.raw.specs,
                       {name: np.asarray(x) for name, x in params.items()})
  for name, value in source.view.raw.read(list(source.view.raw.specs)):
    np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("gates, cell", [(4, "lstm"), (3, "gru")])
def test_the_first_version_has_one_layer_with_hard_sigmoid_gates(
    gates, cell, tmp_path):
  layers = small(gates=gates, attention=False)

  source, module, params = load(write(tmp_path / "a.hdf5", layers))

  assert (source.model.cell, source.model.gate) == (cell, "hard_sigmoid")
  assert not source.model.attention and source.model.window == 40
  if cell == "lstm":
    x = np.float64(layers["embedding"]["embeddings"])[[0] * 38 + [2, 7]]
    kernel, recurrent, bias = map(np.float64, layers["rnn"].values())
    h = c = np.zeros(UNITS)
    for step in x:
      i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
      # The hard sigmoid of Keras 2 has the slope 0.2, that of Keras 3 has 1 / 6.
      i, f, o = (np.clip(0.2 * gate + 0.5, 0, 1) for gate in (i, f, o))
      c = f * c + i * np.tanh(g)
      h = o * np.tanh(c)
    got = module.apply({"params": tree.unflatten(params)}, np.array([[2, 7]]))[0, -1]
    want = h @ np.float64(layers["output"]["kernel"]) + layers["output"]["bias"]
    assert distance(got, want) < 1e-5


def test_attention_over_other_layers_is_refused(tmp_path):
  layers = small()
  layers["attention"]["attention_W"] = layers["attention"]["attention_W"][:-1]

  with pytest.raises(errors.UserError, match="attention_W .10, 1. does not read"):
    load(write(tmp_path / "a.hdf5", layers))


def test_a_word_level_vocabulary_is_refused(tmp_path):
  write(tmp_path / "my_weights.hdf5", small())
  (tmp_path / "my_config.json").write_text('{"word_level": true}')
  (tmp_path / "my_vocab.json").write_text('{"the": 1}')

  with pytest.raises(errors.UserError, match="word_level is set"):
    load(tmp_path / "my_weights.hdf5")


@pytest.mark.parametrize("fields", [
    {}, {"cudnn": True}, {"both": True}, {"attention": False}], ids=str)
def test_export_reproduces_a_keras_2_file_bit_for_bit(fields, tmp_path):
  layers = small(**fields)
  path = write(tmp_path / "my_weights.hdf5", layers)
  (tmp_path / "my_config.json").write_text(json.dumps({
      "max_length": 4, "rnn_bidirectional": bool(fields.get("both"))}))

  convert.convert(path, tmp_path / "out", "keras")

  again = detect.opener_of(tmp_path / "out" / "textgenrnn_weights.hdf5")()
  first = dict(detect.opener_of(path)().read(list(detect.opener_of(path)().specs)))
  assert again.specs.keys() == first.keys()
  for name, value in again.read(list(again.specs)):
    np.testing.assert_array_equal(value, first[name])
  with h5py.File(tmp_path / "out" / "textgenrnn_weights.hdf5") as file:
    # Without this attribute, Keras assumes a file of Keras 1 and converts the weights.
    assert file.attrs["keras_version"].decode() == "2.1.5"
    for layer in file.attrs["layer_names"]:
      named = file[layer].attrs["weight_names"]
      found = [file[layer][name][()] for name in named]
      wanted = layers.get(layer.decode(), {}).values()
      for value, original in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(value, original)
  source, _, _ = load(tmp_path / "out" / "textgenrnn_weights.hdf5")
  assert source.model.window == 4


def test_a_vocabulary_is_exported_if_textgenrnn_can_express_it(tmp_path):
  write(tmp_path / "my_weights.hdf5", small())
  entries = {character: i for i, character in enumerate("abcdefg", 1)}
  (tmp_path / "my_vocab.json").write_text(json.dumps(entries | {"<s>": 8}))

  notes = convert.convert(tmp_path / "my_weights.hdf5", tmp_path / "out", "keras")

  assert json.loads((tmp_path / "out" / "textgenrnn_vocab.json").read_text()) == (
      entries | {"<s>": 8})
  assert len(notes) == 1
  own = tokenizer_kinds.Characters("abcd")  # It has more than one special token.
  assert textgenrnn_out.vocabulary(own.tokens, own.roles) == {}


def test_a_model_that_textgenrnn_cannot_express_is_refused(tmp_path):
  source, _, params = load(write(tmp_path / "a.hdf5", small()))
  model = dataclasses.replace(source.model, forget_bias=1.0)

  with pytest.raises(errors.UserError, match="model.forget_bias is 1.0, and theirs"):
    keras_folder.write_folder(tmp_path / "out", model, params, None)


@needs_real_files
def test_the_published_file_is_exported_unchanged(tmp_path):
  convert.convert(REAL / "textgenrnn_weights.hdf5", tmp_path / "out", "keras")

  with (h5py.File(REAL / "textgenrnn_weights.hdf5") as theirs,
        h5py.File(tmp_path / "out" / "textgenrnn_weights.hdf5") as ours):
    names, again = [], []
    theirs.visit(names.append)
    ours.visit(again.append)
    assert sorted(names) == sorted(again)
    assert theirs.attrs["layer_names"].tolist() == ours.attrs["layer_names"].tolist()
    arrays = [name for name in names if isinstance(theirs[name], h5py.Dataset)]
    assert len(arrays) == 10
    for name in arrays:
      assert theirs[name].dtype == ours[name].dtype
      assert theirs[name][()].tobytes() == ours[name][()].tobytes()
    for layer in theirs:
      assert (theirs[layer].attrs["weight_names"].tolist()
              == ours[layer].attrs["weight_names"].tolist())
  assert json.loads((REAL / "textgenrnn_vocab.json").read_text()) == json.loads(
      (tmp_path / "out" / "textgenrnn_vocab.json").read_text())


@needs_real_files
def test_the_published_weights_generate_their_reference_text():
  source, module, params = load(REAL / "textgenrnn_weights.hdf5")
  wanted = json.loads((REAL / "reference.json").read_text())["base"]
  tokenizer, start = source.tokenizer, source.tokenizer.roles["bos"]
  texts = [[start, *tokenizer.encode(text)] for text in wanted["greedy"]]

  written = sampling.generate(
      module, params, texts, decoding=config.Decoding(max_tokens=64))

  for (prompt, want), new in zip(wanted["greedy"].items(), written):
    assert (prompt + tokenizer.decode(new)).startswith(want)
    assert len(want) >= 59


@needs_real_files
def test_the_published_weights_generate_the_same_text_as_numpy():
  layers = layers_of(REAL / "textgenrnn_weights.hdf5")
  source, module, params = load(REAL / "textgenrnn_weights.hdf5")
  text = [source.tokenizer.roles["bos"], *source.tokenizer.encode("My cat ")]

  [new] = sampling.generate(
      module, params, [text], decoding=config.Decoding(max_tokens=64))

  whole = [*text, *new]
  got = module.apply({"params": tree.unflatten(params)}, np.array([whole[:-1]]))[0]
  want = np.array([logits_of(layers, whole[:t], cudnn=True)
                   for t in range(len(text), len(whole))])
  assert len(new) == 64
  assert new == want.argmax(-1).tolist()
  assert distance(got[len(text) - 1:], want) < 1e-5


@needs_real_files
@pytest.mark.parametrize("text, key", [
    ("", "top8_after_start"), ("The ", "top8_after_The_")])
def test_the_published_weights_give_the_reference_probabilities(text, key):
  source, module, params = load(REAL / "textgenrnn_weights.hdf5")
  wanted = json.loads((REAL / "reference.json").read_text())["base"][key]
  tokens = [source.tokenizer.roles["bos"], *source.tokenizer.encode(text)]

  logits = np.float64(module.apply(
      {"params": tree.unflatten(params)}, np.array([tokens]))[0, -1])

  chances = np.exp(logits - logits.max())
  chances /= chances.sum()
  for character, token, chance in wanted:
    assert source.tokenizer.encode(character) == [token]
    assert abs(chances[token] - chance) < 1e-5 * max(
        reference for _, _, reference in wanted)


def theirs(keras, layers):
  """Returns the model of textgenrnn's `model.py`, in Keras."""
  class AttentionWeightedAverage(keras.layers.Layer):

    def build(self, shape):
      self.W = self.add_weight(shape=(shape[-1], 1), name="attention_W")

    def call(self, x):
      scores = keras.ops.matmul(x, self.W)[..., 0]
      weights = keras.ops.exp(scores - keras.ops.max(scores, axis=-1, keepdims=True))
      weights /= keras.ops.sum(weights, axis=1, keepdims=True) + keras.backend.epsilon()
      return keras.ops.sum(x * weights[..., None], axis=1)

  tokens = keras.Input((40,))
  x = keras.layers.Embedding(465, 100, name="embedding")(tokens)
  seen = [x]
  for name in ("rnn_1", "rnn_2"):
    # Orthogonal initial values, the default, would take long to compile.
    x = keras.layers.LSTM(
        128, return_sequences=True, recurrent_initializer="zeros", name=name)(x)
    seen.append(x)
  x = AttentionWeightedAverage(name="attention")(keras.layers.concatenate(seen))
  model = keras.Model(tokens, keras.layers.Dense(
      465, activation="softmax", name="output")(x))
  for name, arrays in layers.items():
    weights = [*arrays.values()]
    if "recurrent_kernel" in arrays:
      kernel, recurrent, bias = uncudnn(arrays)
      weights = [kernel, recurrent, bias.sum(0)]
    if weights:
      model.get_layer(name).set_weights(weights)
  return model


@needs_real_files
def test_titles_are_scored_as_by_the_published_code_in_keras(tmp_path, capsys):
  keras = pytest.importorskip("keras", reason="Keras is not installed")
  # More than 40 characters in one, so that windows begin within a title, too.
  titles = ["TIL that the moon is moving away", "My cat",
            "What is the best thing that you have ever seen?", "Why"]
  for split, lines in {"train": ["a"], "validation": ["b"], "test": titles}.items():
    (tmp_path / f"{split}.txt").write_text("\n".join(lines))
  convert.convert(REAL / "textgenrnn_weights.hdf5", tmp_path / "run", "orbax")
  # As many rows as there are: most of those that a user's batch has would be empty.
  made = json.loads((tmp_path / "run" / "config.json").read_text())
  made["train"]["batch_size"] = 2
  (tmp_path / "run" / "config.json").write_text(json.dumps(made))
  run = trained.open(tmp_path / "run")
  files = config.Data(
      name="files", unit="line", length=56, **{
          split: str(tmp_path / f"{split}.txt")
          for split in ("train", "validation", "test")})

  def score(packing):
    data = dataclasses.replace(files, packing=packing)
    return run.score(
        reader.Reader().data(data, run.tokenizer, run.run.model), "test")

  found = {packing: score(packing) for packing in ("separate", "joined")}

  layers = layers_of(REAL / "textgenrnn_weights.hdf5")
  ids = json.loads((REAL / "textgenrnn_vocab.json").read_text())
  # As textgenrnn's `training.py` cuts a text: a window ends with the latest token.
  texts = [[ids["<s>"], *(ids[character] for character in title), ids["<s>"]]
           for title in titles]
  windows = [([0] * 40 + text[:end])[-40:]
             for text in texts for end in range(1, len(text))]
  with jax.numpy_rank_promotion("allow"):
    chances = np.float64(theirs(keras, layers).predict_on_batch(np.array(windows)))
  targets = np.concatenate([text[1:] for text in texts])
  wanted = np.split(-np.log(chances[np.arange(len(targets)), targets]),
                    np.cumsum([len(text) - 1 for text in texts])[:-1])
  tokens = sum(map(len, wanted))
  mean = sum(losses.sum() for losses in wanted) / tokens
  assert found["separate"].metrics()["tokens"] == tokens
  np.testing.assert_allclose(
      found["separate"].nats / found["separate"].tokens,
      [losses.mean() for losses in wanted], atol=1e-5)
  assert abs(found["separate"].metrics()["loss"] - mean) < 1e-5
  # The same by the command of a user, who has a file of titles.
  printed = cli.run(capsys, "evaluate", f"--workdir={tmp_path}/run",
                    f"--data={tmp_path}/test.txt")
  facts = json.loads(printed.splitlines()[-1])
  assert facts["documents"] == len(titles) and abs(facts["loss"] - mean) < 1e-5
  # Before documents were packed apart, windows reached into the titles before.
  assert found["joined"].metrics()["loss"] > mean + 0.1
