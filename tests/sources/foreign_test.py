"""Tests for foreign checkpoints as sources, with built-in maps and with map files."""

import copy
import dataclasses
import json

from etils import epath
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.comparing import distance
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.formats import raw as raw_lib
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.sources import foreign
from transfer_gen.sources import map_file
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib

MODEL = config_lib.Recurrent(
    vocab_size=6, cell="rnn", num_layers=1, embed_width=3, hidden_width=4)
OWN = {
    "model": codec.model_to_json(MODEL),
    "lines": [
        {"target": "embed/embedding", "source": "table",
         "layout": {"kind": "Transpose", "perm": [1, 0]}},
        {"target": r"layer_(\d+)/cell/(input|recurrent)_kernel", "source": r"cell\1.\2",
         "layout": {"kind": "Unflatten", "dim": 1, "shape": [1, 4]}},
        {"target": r"layer_(\d+)/cell/bias", "source": r"cell\1.b",
         "layout": {"kind": "Unflatten", "dim": 0, "shape": [1, 4]}},
        {"target": "head/kernel", "source": "out"},
        {"target": "head/bias", "source": "out_b"}],
    "unused": ["step"],
}
ARRAYS = {"table": (3, 6), "cell0.input": (3, 4), "cell0.recurrent": (4, 4),
          "cell0.b": (4,), "out": (4, 6), "out_b": (6,), "step": ()}


def write(folder, how=OWN):
  rng = np.random.default_rng(0)
  arrays = {name: rng.normal(size=shape).astype(np.float32)
            for name, shape in ARRAYS.items()}
  np.savez(folder / "theirs.npz", **arrays)
  (folder / "map.json").write_text(json.dumps(how))
  return arrays


def view(folder):
  return sources.open(
      folder / "theirs.npz", map_name=str(folder / "map.json"))


def logits_of(arrays, tokens):
  """Returns the logits after the last token, computed in float64."""
  state = np.zeros(4)
  for token in tokens:
    sums = (np.float64(arrays["table"])[:, token] @ arrays["cell0.input"]
            + state @ arrays["cell0.recurrent"])
    state = np.tanh(sums + arrays["cell0.b"])
  return state @ arrays["out"] + arrays["out_b"]


def test_a_user_map_file_reads_a_foreign_checkpoint(tmp_path):
  arrays = write(tmp_path)

  source = view(tmp_path)

  params = dict(source.read(list(source.specs)))
  got = registry.build(source.model).apply(
      {"params": tree.unflatten(params)}, np.array([[5, 2, 0]]))[0, -1]
  want = logits_of(arrays, [5, 2, 0])
  assert distance(got, want) < 1e-5
  assert source.specs["head/kernel"].axes == ("hidden", "vocab")
  assert source.constants["cell"] == "rnn"
  assert source.tokenizer is None


def test_a_map_round_trips_through_its_file(tmp_path):
  write(tmp_path)
  source = view(tmp_path)

  (tmp_path / "map.json").write_text(json.dumps(
      map_file.to_json(source.model, source.view.how)))

  again = view(tmp_path)
  assert again.view.how == source.view.how
  assert again.model == source.model


def _changed(path, value):
  data = copy.deepcopy(OWN)
  *parents, last = path
  node = data
  for key in parents:
    node = node[key]
  node[last] = value
  return data


@pytest.mark.parametrize("path, value, message", [
    (("modle",), {}, "modle is no part of a map"),
    (("model", "family"), "Recurent", "model.family is 'Recurent', must be one of"),
    (("model", "width"), 3, "has no field 'width'"),
    (("model", "hidden_width"), 5, "map does not fit the checkpoint"),
    (("model", "num_layers"), 10**9, "num_layers is 1000000000, must be a whole"),
    (("lines", 0, "layout"), {"kind": "Transposed"}, "'Transposed' is not known"),
    (("lines", 0, "layout"), {"kind": "MatchTokens"}, "is no layout"),
    (("lines", 0, "layout", "permutation"), [1, 0], "permutation"),
    (("lines", 0, "fresh"), "zeros", "has no field 'fresh'"),
    (("lines", 0, "source"), [], "reads nothing"),
    (("lines", 0, "target"), "embed(", "regular expression"),
    (("lines",), [], "no line of the map"),
    (("lines",), 3, "map.json: no whole map"),
    (("unused",), [], "read by no line: step"),
    (("tokenizer",), "nowhere", "no such file or folder"),
])
def test_a_mistake_in_a_map_file_gives_one_clear_error(path, value, message, tmp_path):
  write(tmp_path, _changed(path, value))

  with pytest.raises(errors.UserError, match=message):
    view(tmp_path)


@pytest.mark.parametrize("name, message", [
    ("gpt", "There is no map 'gpt'"), ("nowhere.json", "there is no nowhere.json"),
    ("", "no map recognizes it")])
def test_an_unknown_map_name_is_refused(name, message, tmp_path):
  write(tmp_path)

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path / "theirs.npz", map_name=name)


def _run(folder, **source):
  texts = {"train": "abcab\nbca\ncc\n" , "validation": "acb\n", "test": "bbca\n"}
  for split, text in texts.items():
    (folder / f"{split}.txt").write_text(text)
  return config_lib.Run(
      model=dataclasses.replace(MODEL, vocab_size=0, hidden_width=8),
      data=config_lib.Data(
          name="files", length=8,
          **{split: str(folder / f"{split}.txt") for split in texts}),
      tokenizer=config_lib.Tokenizer(kind="characters"),
      source=config_lib.Source(path=str(folder / "theirs.npz"), **source),
      transfer=plan_lib.TransferPlan(
          rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
          axes=(plan_lib.On(axis="vocab", map=axes.MatchTokens(fresh="mean")),
                plan_lib.On(axis="hidden", map=axes.Grow())),
          groups=(plan_lib.Group(name="all", params=".*"),)))


def test_a_run_transfers_from_a_foreign_checkpoint(tmp_path):
  write(tmp_path, OWN | {"tokenizer": "characters"})
  folder = epath.Path(tmp_path / "characters")
  folder.mkdir()
  (folder / "tokenizer_kind.json").write_text(json.dumps(
      {"kind": "characters", "characters": [None, "c", "x", "a", "b", "\r"],
       "roles": {"pad": 0}}))

  setup = assemble.build(
      _run(tmp_path, map=str(tmp_path / "map.json")), tmp_path / "run")

  rows = {row.name: row for row in setup.rows}
  vocab = rows["embed/embedding"].changes[0].binding
  tokens = setup.data.tokenizer.tokens
  assert [vocab.index[tokens.index(letter)] for letter in (b"a", b"b", b"c")] == [
      3, 4, 1]
  assert rows["layer_0/cell/recurrent_kernel"].how == "mapped"
  assert rows["layer_0/cell/recurrent_kernel"].source_spec.shape == (4, 1, 4)


def test_a_map_for_a_native_checkpoint_is_refused(tmp_path):
  (tmp_path / "checkpoints" / "3").mkdir(parents=True)

  with pytest.raises(errors.UserError, match="of ours needs no map, and 'keras'"):
    sources.open(tmp_path, map_name="keras")


def _keras(layers):
  leaf = lambda *shape: raw_lib.Extent(
      path=epath.Path("none.h5"), offset=0, shape=shape, dtype=np.dtype("<f4"))
  return raw_lib.Raw(epath.Path("none.h5"), "Keras file", {
      "embedding/embeddings": leaf(6, 3), "lstm/kernel": leaf(3, 16),
      "lstm/recurrent_kernel": leaf(4, 16), "lstm/bias": leaf(16),
      "dense/kernel": leaf(4, 6), "dense/bias": leaf(6)},
                      {"model_config": {"class_name": "Sequential",
                                        "config": {"layers": layers}}})


LAYERS = [
    {"class_name": "Embedding", "config": {
        "name": "embedding", "batch_input_shape": [None, None], "input_dim": 6,
        "output_dim": 3, "mask_zero": False}},
    {"class_name": "LSTM", "config": {
        "name": "lstm", "units": 4, "activation": "tanh", "return_sequences": True,
        "recurrent_activation": "sigmoid", "use_bias": True, "implementation": 1}},
    {"class_name": "Dense", "config": {
        "name": "dense", "units": 6, "activation": "softmax", "use_bias": True}},
]
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(
        max_size=3) | st.sampled_from(["Embedding", "LSTM", "Dense", "Bidirectional"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["layer", "config", "class_name", "name"]), inner, max_size=3),
    max_leaves=4)


@hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
@hypothesis.given(
    where=st.sampled_from([
        (i, key) for i, layer in enumerate(LAYERS)
        for key in (*layer["config"], "class_name", "config", "new")]),
    value=_ANYTHING)
def test_any_keras_config_gives_a_model_or_one_clear_error(where, value):
  layers, (index, key) = copy.deepcopy(LAYERS), where
  node = layers[index] if key in ("class_name", "config") else layers[index]["config"]
  node[key] = value

  try:
    source = foreign.view(_keras(layers))
  except errors.UserError as error:
    assert any(part in str(error) for part in ("none.h5", "layer", "map"))
  else:
    assert source.specs["layer_0/cell/input_kernel"].shape == (3, 4, 4)


def test_the_unmodified_keras_config_gives_a_model():
  assert foreign.view(_keras(LAYERS)).model.gate == "sigmoid"
