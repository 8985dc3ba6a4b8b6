"""Tests for Keras files of other forms: one message says what they are."""

import h5py
import pytest
import transformers

from tests import random_models
from tests.commands import cli
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import keras_folder


def _of_transformers(folder):
  """Writes a GPT-2 as Transformers 4 saved it for TensorFlow: `tf_model.h5`."""
  config = transformers.GPT2Config(
      vocab_size=7, n_positions=8, n_embd=4, n_layer=1, n_head=2)
  model = transformers.GPT2LMHeadModel(config)
  config.save_pretrained(folder)
  start = "tfgpt2lm_head_model/transformer/"
  with h5py.File(folder / "tf_model.h5", "w") as file:
    names = []
    group = file.create_group("transformer")
    for name, value in model.transformer.state_dict().items():
      plain = start + name.replace(".", "/").replace("h/0", "h_._0") + ":0"
      group.create_dataset(plain, data=value.numpy())
      names.append(plain)
    group.attrs["weight_names"] = [name.encode() for name in names]
    file.attrs["layer_names"] = [b"transformer"]


@pytest.mark.parametrize("path", ["", "/tf_model.h5"])
def test_weights_of_transformers_for_tensorflow_are_named_in_one_message(
    path, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "theirs").mkdir()
  _of_transformers(tmp_path / "theirs")

  refused = cli.refused(
      capsys, "convert", f"--source=theirs{path}", "--output=ours")

  assert "saved for TensorFlow" in refused and "from_tf=True" in refused
  assert "misfit" not in refused and not (tmp_path / "ours").exists()
  # What lies in it is listed all the same.
  assert "(7,4)" in cli.run(capsys, "inspect", f"--source=theirs{path}")


@pytest.mark.parametrize("graph", [
    "_layer_checkpoint_dependencies/{}", "layer_with_weights-1/{}", "encoder/{}"])
def test_a_graph_of_objects_is_named_in_one_message(graph, tmp_path):
  model = config_lib.Recurrent(
      vocab_size=7, num_layers=1, embed_width=3, hidden_width=4, forget_bias=0.0)
  keras_folder.write(
      tmp_path / "a.weights.h5", model, random_models.build(model)[1])
  with (h5py.File(tmp_path / "a.weights.h5") as known,
        h5py.File(tmp_path / "b.weights.h5", "w") as file):
    for name in sources.leaves(tmp_path / "a.weights.h5")[1]:
      file.create_dataset(
          graph.format(name.removeprefix("layers/")), data=known[name][()])

  with pytest.raises(errors.UserError) as error:
    sources.open(tmp_path / "b.weights.h5")

  assert "graph of objects" in str(error.value) and "model.save" in str(error.value)
  assert "misfit" not in str(error.value)
