"""Tests that one odd leaf, field, name or token does not close a checkpoint."""

import json
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors
import tokenizers
import transformers

from tests import transformers_models
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.run import trained

V = 24
INPUTS = np.random.default_rng(0).integers(0, V, (2, 6)).astype(np.int32)


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  """A small GPT-2 of Transformers with a tokenizer; returns its folder and logits."""
  folder = tmp_path_factory.mktemp("made")
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0,
      eos_token_id=0)).eval()
  model.save_pretrained(folder)
  letters = {letter: i for i, letter in enumerate("!abcdefghijklmnopqrstuvw")}
  tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="!")).save(
      str(folder / "tokenizer.json"))
  return folder, transformers_models.logits(model, INPUTS)


@pytest.fixture(name="theirs")
def _theirs(made, tmp_path, monkeypatch):
  """A copy of the folder, to be spoiled; the working folder is the one above it."""
  monkeypatch.chdir(tmp_path)
  shutil.copytree(made[0], tmp_path / "theirs")
  return tmp_path / "theirs"


def _leaves(folder, change_fn):
  path = folder / "model.safetensors"
  safetensors.save_file(change_fn(safetensors.load_file(path)), path, {"format": "pt"})


def _field(folder, **fields):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _check(source, made):
  """Checks that a source computes what the unspoiled model does."""
  params = dict(source.read(list(source.specs)))
  ours = registry.build(source.model).apply({"params": tree.unflatten(params)}, INPUTS)
  np.testing.assert_allclose(np.asarray(ours), made[1], atol=1e-4, rtol=0)


def test_an_unread_leaf_is_refused_and_left_out_with_the_flag_that_the_error_names(
    theirs, made, capsys):
  _leaves(theirs, lambda found: found | {
      f"score.{name}": np.ones(3, np.float32) for name in ("weight", "bias")})

  refused = cli.refused(capsys, "inspect", "--source=theirs", "--map=auto")
  flag = r"--unused='score\..*'"
  assert flag in refused
  cli.run(capsys, "convert", "--source=theirs", flag.replace("'", ""), "--output=w")

  _check(sources.open(theirs, unused=(r"score\..*",)), made)
  assert trained.open("w").run.model.vocab_size == V


def test_flags_that_an_error_names_leave_out_no_leaf_that_is_read(theirs):
  _leaves(theirs, lambda found: found | {
      f"transformer.{name}": np.ones(2, np.float32) for name in ("hm", "score")})

  with pytest.raises(errors.UserError) as error:
    sources.open(theirs)

  for name in ("hm", "score"):
    assert rf"--unused='transformer\.{name}'" in str(error.value)


def test_what_is_left_out_is_logged_by_name(theirs, caplog):
  _leaves(theirs, lambda found: found | {"score.weight": np.ones(2, np.float32)})

  sources.open(theirs, unused=("score.*",))

  assert "left out, as asked: score.weight" in caplog.text


@pytest.mark.parametrize("unused, message", [
    ("scor", "'scor' matches no leaf.*Nearest: score.weight"),
    ("score(", "no regular expression"),
    (r".*ln_f\.bias", "which is not in the checkpoint")])
def test_a_wrong_pattern_of_unused_leaves_is_refused(theirs, unused, message):
  _leaves(theirs, lambda found: found | {"score.weight": np.ones(2, np.float32)})

  with pytest.raises(errors.UserError, match=message):
    sources.open(theirs, unused=(unused,))


def test_buffers_of_older_versions_are_read_by_no_line_and_not_refused(theirs, made):
  buffers = ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias",
             "transformer.position_ids", "rotary_emb.inv_freq")
  _leaves(theirs, lambda found: found | {
      name: np.ones(4, np.float32) for name in buffers})

  _check(sources.open(theirs), made)


@pytest.mark.parametrize("fields, name", [
    ({"foo": 3}, "foo"), ({"rope_parameters": {"foo": 3}}, "rope_parameters.foo")])
def test_an_idle_field_is_refused_and_passed_over_with_the_flag_that_the_error_names(
    tmp_path, monkeypatch, capsys, fields, name):
  monkeypatch.chdir(tmp_path)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
      num_attention_heads=2, max_position_embeddings=16)).eval()
  model.save_pretrained(tmp_path / "theirs")
  _field(tmp_path / "theirs", **fields)

  refused = cli.refused(capsys, "inspect", "--source=theirs", "--map=auto")
  assert f"--idle_field={name}" in refused
  assert "model=" in cli.run(
      capsys, "inspect", "--source=theirs", "--map=auto", f"--idle_field={name}")

  source = sources.open("theirs", idle_fields=(name,))
  _check(source, (None, transformers_models.logits(model, INPUTS)))


def test_a_field_that_a_map_reads_cannot_be_idle(theirs):
  with pytest.raises(errors.UserError, match="n_head: no field"):
    sources.open(theirs, idle_fields=("n_head",))


def test_a_config_may_name_unused_leaves_and_idle_fields(theirs, capsys):
  _leaves(theirs, lambda found: found | {"score.weight": np.ones(2, np.float32)})
  _field(theirs, foo=3)
  (theirs.parent / "a.txt").write_text("".join(
      f"{i} abc def\n" for i in range(160)))
  (theirs.parent / "config.py").write_text("""
from transfer_gen import config
def get_config():
  return config.Run(
      model="source", data=config.Data(name="files", train="a.txt", length=8),
      tokenizer=config.Tokenizer(kind="file", path="theirs/tokenizer.json"),
      source=config.Source(path="theirs", unused=("score.*",), idle_fields=("foo",)),
      strategy=config.Strategy(name="fine_tune"))
""")

  cli.run(capsys, "plan", "--config=config.py", "--workdir=w")

  assert "(24,8)   embed/embedding" in (theirs.parent / "w" / "audit.txt").read_text()


@pytest.mark.parametrize("old, renamed", [
    ({"weight": "gamma", "bias": "beta"},
     {r"(.*)\.gamma": r"\1.weight", r"(.*)\.beta": r"\1.bias"}),
    ({"weight": "weights", "bias": "biases"}, {r"(.*\.)(weight|bias)(e?s)": r"\1\2"})])
def test_older_names_are_one_line_of_a_map_file(theirs, made, old, renamed):
  # Only norms were called gamma and beta.
  renames = lambda name: "ln_" in name or "gamma" not in old.values()
  _leaves(theirs, lambda found: {
      f"{start}.{old[end]}" if renames(name) and end in old else name: value
      for name, value in found.items() for start, _, end in [name.rpartition(".")]})
  with pytest.raises(errors.UserError, match="gives leaves other names"):
    sources.open(theirs)
  path = theirs.parent / "map.json"
  path.write_text(json.dumps({"map": "gpt2", "renamed": renamed}))

  source = sources.open(theirs, map_name=str(path))

  _check(source, made)
  assert source.tokenizer.size == V


def test_cells_of_older_names_are_one_line_of_a_map_file(tmp_path):
  shapes = {
      "embedding": (5, 3), "rnnlm/softmax_w": (2, 5), "rnnlm/softmax_b": (5,),
      "rnnlm/basic_lstm_cell/weights": (5, 8), "rnnlm/basic_lstm_cell/biases": (8,)}
  np.savez(tmp_path / "old.npz", **{
      name: np.ones(shape, np.float32) for name, shape in shapes.items()})
  with pytest.raises(errors.UserError) as error:
    sources.open(tmp_path / "old.npz", map_name="basic_lstm")
  assert "IndexError" not in str(error.value) and "renamed" in str(error.value)
  (tmp_path / "map.json").write_text(json.dumps({"map": "basic_lstm", "renamed": {
      "(.*)/weights": r"\1/kernel", "(.*)/biases": r"\1/bias"}}))

  source = sources.open(tmp_path / "old.npz", map_name=str(tmp_path / "map.json"))

  assert source.model.cell == "lstm" and source.view.name == "basic_lstm"


@pytest.mark.parametrize("renamed, message", [
    ({"nothing": "x"}, "matches no leaf"), ({"lm(": "x"}, "no regular expression"),
    ({"(.*)": r"\2"}, r"does not go with its pattern"),
    ({"(.*)": "x"}, "would both be x"), ({"(.*)": 3}, "must be text"),
    ([3], "no whole")])
def test_a_mistake_in_new_names_is_one_clear_error(theirs, renamed, message):
  path = theirs.parent / "map.json"
  path.write_text(json.dumps({"map": "gpt2", "renamed": renamed}))

  with pytest.raises(errors.UserError, match=message):
    sources.open(theirs, map_name=str(path))


def test_inspect_writes_a_map_file_that_reads_the_checkpoint_alike(
    theirs, made, capsys):
  cli.run(capsys, "inspect", "--source=theirs", "--map=auto", "--output=map.json")

  source, plain = sources.open(theirs, map_name="map.json"), sources.open(theirs)
  _check(source, made)
  assert source.view.how == plain.view.how and source.model == plain.model
  assert source.tokenizer.tokens == plain.tokenizer.tokens
  assert source.decoding == plain.decoding


def test_inspect_writes_the_map_of_a_checkpoint_that_it_does_not_fit_yet(
    theirs, made, capsys):
  _leaves(theirs, lambda found: {
      name.replace("ln_f.weight", "last.g"): x for name, x in found.items()})

  printed = cli.run(
      capsys, "inspect", "--source=theirs", "--map=auto", "--output=map.json")
  text = (theirs.parent / "map.json").read_text()
  assert "does not fit yet" in printed and text.count("ln_f.weight") == 1
  (theirs.parent / "map.json").write_text(text.replace("ln_f.weight", "last.g"))

  _check(sources.open(theirs, map_name="map.json"), made)


@pytest.mark.parametrize("words, message", [
    (("--output=map.json",), "add --map=auto"), (("--unused=x",), "add --map=auto"),
    (("--map=auto", "--output=config.py"), "new file that ends in .json"),
    (("--map=auto", "--output=no/map.json"), "in a folder that is there")])
def test_a_map_file_is_not_written_where_it_cannot_be(theirs, capsys, words, message):
  assert message in cli.refused(capsys, "inspect", "--source=theirs", *words)


def test_more_tokens_than_rows_are_refused_left_out_or_not_read(theirs, made, capsys):
  text = (theirs / "tokenizer.json").read_text()
  described = json.loads(text)
  described["model"]["vocab"]["extra"] = V
  (theirs / "tokenizer.json").write_text(json.dumps(described))

  refused = cli.refused(capsys, "inspect", "--source=theirs", "--map=auto")
  assert "--vocabulary=repair" in refused and "--vocabulary=none" in refused
  repaired = sources.open(theirs, vocabulary="repair")
  alone = sources.open(theirs, vocabulary="none")

  _check(repaired, made)
  _check(alone, made)
  assert repaired.tokenizer.size == V and alone.tokenizer is None
  assert repaired.tokenizer.encode("a") == [1]
  for vocabulary in ("repair", "none"):  # A config takes what a flag does.
    config.check(config.Source(path="theirs", vocabulary=vocabulary))
