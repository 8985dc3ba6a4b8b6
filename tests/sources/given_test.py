"""Tests for vocabularies that a user names for checkpoints that hold none."""

import dataclasses
import json

from etils import epath
import numpy as np
import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.run import trained
from transfer_gen.sources import given

MODEL = config.Recurrent(
    vocab_size=5, embed_width=3, hidden_width=4, num_layers=1, cell="rnn")
PAIRS = dataclasses.replace(
    MODEL, encoder=True, encoder_vocab_size=4, encoder_marks="none")
INPUTS, TARGETS = ["a", "b", "c", " "], ["\t", "\n", "x", "y", "z"]

CONFIG = r'''
from transfer_gen import config
from transfer_gen.transfer import axes, plan

def get_config():
  return config.Run(
      model=config.Recurrent(embed_width=3, hidden_width=4, num_layers=1, cell="rnn"),
      data=config.Data(name="files", train="text.txt", length=8),
      tokenizer=config.Tokenizer(kind="characters"),
      source=config.Source(path="net.npz", map="net_map.json"),
      transfer=plan.TransferPlan(
          rules=(plan.Rule(target="(.*)", source=r"\1"),),
          axes=(plan.On(axis="vocab", map=axes.MatchTokens()),),
          groups=(plan.Group(name="all", params=".*"),)))
'''


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  """Makes two checkpoints that hold no vocabulary, and lists of tokens."""
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  for name, model in (("net", MODEL), ("pairs", PAIRS)):
    specs = registry.specs(registry.build(model))
    np.savez(tmp_path / f"{name}.npz", **{
        f"net/{leaf}": rng.normal(size=spec.shape).astype(np.float32)
        for leaf, spec in specs.items()})
    (tmp_path / f"{name}_map.json").write_text(json.dumps({
        "model": codec.model_to_json(model),
        "lines": [{"target": "(.*)", "source": r"net/\1"}]}))
  for name, tokens in (("inputs", INPUTS), ("targets", TARGETS),
                       ("vocab", ["", "a", "b", "c", " "])):
    (tmp_path / f"{name}.json").write_text(json.dumps(tokens))
  return tmp_path


def _open(name, tokenizer):
  return sources.open(f"{name}.npz", map_name=f"{name}_map.json", tokenizer=tokenizer)


def test_a_list_becomes_the_tokenizer_and_vocabulary_of_a_source(folder):
  source = _open("net", "vocab.json")

  assert source.tokenizer.encode("cab a") == [3, 1, 2, 4, 1]
  assert source.vocabulary.tokens == (b"", b"a", b"b", b"c", b" ")
  assert sources.open("net.npz", map_name="net_map.json").tokenizer is None


def test_each_side_of_a_pair_model_has_its_own_list(folder):
  source = _open("pairs", "inputs.json|targets.json")

  assert tokenizers.for_encoder(source.tokenizer).encode("ab c") == [0, 1, 3, 2]
  assert source.tokenizer.decode([0, 2, 4, 1]) == "xz"
  # Only the targets have a tab and a line break, so they mark an answer.
  assert source.tokenizer.roles == {"bos": 0, "eos": 1}
  assert source.vocabulary.encoder.tokens == tuple(c.encode() for c in INPUTS)
  assert any("begin with a tab" in note for note in source.notes)


def test_a_length_fills_the_texts_of_the_encoder(folder):
  (folder / "inputs.json").write_text(json.dumps(
      {"tokens": INPUTS, "roles": {"pad": " "}, "length": 7}))

  source = _open("pairs", "inputs.json|targets.json")

  assert (source.model.encoder_length, source.model.pad_token) == (7, 3)
  assert PAIRS.encoder_length == 0


def test_a_path_that_has_a_bar_and_exists_is_one_path(folder):
  (folder / "vocab.json").rename(folder / "a|b.json")

  assert _open("net", "a|b.json").tokenizer.encode("a") == [1]


@pytest.mark.parametrize("name, tokenizer, message", [
    ("net", "inputs.json", "inputs.json has 4 tokens and the table of the checkpoint"
     " 5 rows. In a list, \"\" stands for a row without text"),
    ("pairs", "targets.json|targets.json", "targets.json has 5 tokens and the encoder's"
     " table of the checkpoint 4 rows"),
    ("pairs", "inputs.json|inputs.json", "inputs.json has 4 tokens and the decoder's"
     " table of the checkpoint 5 rows"),
    ("pairs", "inputs.json", "the decoder's table of the checkpoint 5 rows"),
    ("net", "inputs.json|targets.json", "the model has no encoder"),
    ("net", "a|b|c", "must be one path, or inputs|targets"),
    ("net", "|", "must be one path, or inputs|targets"),
    ("net", "nowhere.json", "nowhere.json': there is no such file"),
    ("pairs", "inputs.json|unmarked.json", "nothing says which tokens begin and end"),
])
def test_a_vocabulary_that_does_not_fit_is_refused(folder, name, tokenizer, message):
  (folder / "unmarked.json").write_text(json.dumps(["p", "q", "x", "y", "z"]))

  with pytest.raises(errors.UserError) as error:
    _open(name, tokenizer)
  assert message in str(error.value)


def test_a_checkpoint_with_a_vocabulary_of_its_own_takes_no_other(folder):
  (folder / "run" / "checkpoints").mkdir(parents=True)
  (folder / "words.vec").write_text("1 2\na 0 1\n")

  for path in ("run", "words.vec"):
    with pytest.raises(errors.UserError, match="source.tokenizer is 'vocab.json'"):
      sources.open(path, tokenizer="vocab.json")


def test_convert_asks_for_a_vocabulary_and_then_takes_it(folder, capsys):
  words = ("convert", "--source=net.npz", "--map=net_map.json")

  asked = cli.run(capsys, *words, "--output=without")
  cli.run(capsys, *words, "--output=with", "--tokenizer=vocab.json")
  refused = cli.refused(capsys, "generate", "--workdir=without", "--prompt=a")

  assert "net.npz holds no vocabulary: give source.tokenizer (--tokenizer" in asked
  assert "Beside it lie vocab.json." in asked
  assert "No tokenizer was written" in asked and "lies beside it" not in asked
  assert "convert it again with --tokenizer=PATH" in refused
  assert trained.open("with").tokenizer.encode("ab") == [1, 2]


@pytest.mark.parametrize("vocabulary", ["repair", "none"])
@pytest.mark.parametrize("name, tokenizer", [
    ("net", "vocab.json"), ("pairs", "inputs.json|targets.json")])
def test_a_vocabulary_that_is_named_is_neither_repaired_nor_left_out(
    folder, capsys, name, tokenizer, vocabulary):
  words = ("convert", f"--source={name}.npz", f"--map={name}_map.json", "--output=w",
           f"--tokenizer={tokenizer}")

  refused = cli.refused(capsys, *words, f"--vocabulary={vocabulary}")

  assert f"{name}.npz: source.tokenizer (--tokenizer) names the vocabulary" in refused
  assert f"(--vocabulary) is '{vocabulary}'. Leave one of them out" in refused
  assert not (folder / "w").exists()
  cli.run(capsys, *words, "--vocabulary=refuse")


@pytest.mark.parametrize("path", ["run", "words.vec"])
def test_what_would_be_repaired_in_vain_is_refused(folder, path):
  (folder / "run" / "checkpoints").mkdir(parents=True)
  (folder / "words.vec").write_text("1 2\na 0 1\n")

  with pytest.raises(errors.UserError, match="vocabulary. is 'repair', which is for"):
    sources.open(path, vocabulary="repair")


def test_a_plan_that_matches_tokens_names_the_files_beside_the_source(folder, capsys):
  (folder / "text.txt").write_text("".join(f"cab {i} a b\n" for i in range(99)))
  (folder / "config.py").write_text(CONFIG)
  words = ("plan", "--config=config.py", "--workdir=w")

  refused = cli.refused(capsys, *words)
  printed = cli.run(capsys, *words, "--config.source.tokenizer=vocab.json")

  assert "MatchTokens needs the source's tokens" in refused
  assert "Beside it lie vocab.json." in refused
  # a, b, c, the space, and the padding, which matches by its role.
  assert "vocab: 5 of" in printed


def test_a_source_that_was_converted_without_a_vocabulary_says_so(folder, capsys):
  (folder / "text.txt").write_text("".join(f"cab {i} a b\n" for i in range(99)))
  (folder / "config.py").write_text(CONFIG.replace(
      'path="net.npz", map="net_map.json"', 'path="w"'))
  cli.run(capsys, "convert", "--source=net.npz", "--map=net_map.json", "--output=w")
  words = ("plan", "--config=config.py", "--workdir=p")

  refused = cli.refused(capsys, *words)
  named = cli.refused(capsys, *words, "--config.source.tokenizer=vocab.json")

  assert "no vocabulary was stored with it" in refused
  assert "convert it again with --tokenizer" in refused
  assert "convert it again with --tokenizer" in named


def test_the_tokenizer_folder_of_a_run_serves_both_sides(folder):
  first = _open("pairs", "inputs.json|targets.json").tokenizer
  first.save(epath.Path("saved"))

  again = _open("pairs", "saved").tokenizer

  assert again.tokens == first.tokens and again.roles == first.roles
  assert tokenizers.for_encoder(again).tokens == tokenizers.for_encoder(first).tokens


def test_inspect_needs_a_map_for_a_vocabulary(folder, capsys):
  message = cli.refused(
      capsys, "inspect", "--source=net.npz", "--tokenizer=vocab.json")

  assert "add --map=auto" in message


def test_files_that_cannot_be_vocabularies_are_not_named(folder):
  (folder / "vocab.json").unlink()
  (folder / "notes_on_words.md").write_text("no vocabulary")

  assert "No file beside it looks like one." in given.ask(epath.Path("net.npz"))
