"""Tests for runs that take the model and the tokenizer of their source."""

import dataclasses

import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.run import audited
from transfer_gen.run import reader

SOURCE = """
from transfer_gen import config

def get_config():
  return config.Run(
      model="source", tokenizer=config.Tokenizer(kind="source"),
      data=config.Data(name="files", train="text.txt", length=16),
      train=config.Train(steps=1, batch_size=8))
"""


@pytest.fixture(name="there")
def _there(folder, capsys):
  """Trains the source `first`, and writes `source.py`, a run without a model."""
  cli.train_source(folder, capsys)
  (folder / "source.py").write_text(SOURCE)
  return folder


def test_the_model_and_the_tokenizer_are_those_of_the_source(there, capsys):
  printed = cli.run(capsys, "plan", "--config=source.py", "--config.source.path=first",
                    "--workdir=moved")

  old, _ = codec.read_run("first"), capsys.readouterr()
  assert "No plan is given" in printed
  assert "100.0% of the target's params come from a source." in printed
  run, audit, _ = audited.write(config.Run(
      model="source", source=config.Source(path="first"),
      tokenizer=config.Tokenizer(kind="source"), data=old.data), "again", 0.0)
  assert run.model == old.model
  assert {row.how for row in audit.rows} == {"copy"}


def test_a_flag_changes_one_field_of_the_source_model_and_the_audit_lists_it(
    there, capsys):
  printed = cli.run(
      capsys, "plan", "--config=source.py", "--config.source.path=first",
      "--config.model.activation=relu", "--config.model.dropout=0.25",
      "--workdir=moved")

  assert "activation, 'gelu' there and 'relu' here" in printed
  assert "dropout" not in printed.replace("--config", "")


def test_a_change_of_the_width_keeps_the_scale_of_attention(there):
  old = codec.read_run("first")
  run = config.Run(
      model="source", model_changes={"width": 32}, source=config.Source(path="first"),
      tokenizer=config.Tokenizer(kind="source"), data=old.data)

  model = reader.Reader().read(run, "moved").run.model

  assert model.width == 32 and model.score_scale == old.model.score_scale
  assert dataclasses.replace(model, width=8, attention_scale=0.0) == old.model


def test_another_tokenizer_leaves_the_size_of_the_vocabulary_open(there):
  old = codec.read_run("first")
  run = config.Run(model="source", source=config.Source(path="first"), data=old.data,
                   tokenizer=config.Tokenizer(kind="bytes"))

  inputs = reader.Reader().read(run, "moved")

  assert inputs.run.model.vocab_size == inputs.data.tokenizer.size
  assert inputs.run.model.vocab_size != old.model.vocab_size


@pytest.mark.parametrize("words, message", [
    (["--config.source.path=first", "--config.model.widht=3"],
     "config.model_changes has no field 'widht'. Nearest: width"),
    (["--config.source.path=first", "--config.model.cell=gru"],
     "model.cell: a Decoder has no such field. Nearest:"),
    (["--config.source.path=nowhere"], "nowhere"),
])
def test_a_wrong_source_or_field_is_refused(there, capsys, words, message):
  assert message in cli.refused(
      capsys, "plan", "--config=source.py", *words, "--workdir=moved")


def test_a_wrong_field_is_refused_also_where_there_is_no_source(folder, capsys):
  (folder / "source.py").write_text(SOURCE)
  message = cli.refused(
      capsys, "plan", "--config=source.py", "--config.model.widht=3", "--workdir=w")

  assert "config.model_changes has no field 'widht'. Nearest: width" in message


def test_changes_without_the_model_of_a_source_are_refused():
  run = config.Run(model_changes={"width": 3})

  with pytest.raises(errors.UserError, match="model is not 'source'"):
    from transfer_gen.run import source_model
    source_model.of_run(run, {}, 10)
