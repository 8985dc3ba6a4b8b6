"""Tests for runs whose inputs and targets have tokenizers of their own."""

import dataclasses
import json

from etils import epath
import numpy as np
import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.export import hugging_face_tokenizer
from transfer_gen.run import audited
from transfer_gen.run import loop
from transfer_gen.run import trained
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan

RECURRENT = dataclasses.replace(small_runs.RNN, encoder=True)
TRANSFORMER = config.EncoderDecoder(num_layers=1, width=8, num_heads=2)
TABLES = "encoder/embed/embedding", "embed/embedding"
SIDES = tokenizers.for_encoder, lambda tokenizer: tokenizer
PLAN = plan.TransferPlan(
    rules=(plan.Rule(target="(.*)", source=r"\1"),),
    axes=(plan.On(axis="vocab", map=axes.MatchTokens(fresh="zeros")),),
    groups=(plan.Group(name="all", params=".*"),))


def _run(folder, name, model, **fields):
  return small_runs.configure(
      f"{folder / name}.in|{folder / name}.out", model, steps=1, length=24, lr=1e-9,
      **{"encoder_tokenizer": config.Tokenizer(kind="characters"), **fields})


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """Writes pairs whose sides have letters of their own, and others with fewer."""
  folder = tmp_path_factory.mktemp("both")
  for name, shift in (("first", 0), ("second", 2)):
    for side, letters in (("in", "abcdefgh"), ("out", "nopqrs")):
      (folder / f"{name}.{side}").write_text("".join(
          f"{i} {letters[shift:][i % (len(letters) - shift)] * 2}{letters[-1]}\n"
          for i in range(150)))
  return folder


@pytest.mark.parametrize("name, model, leaves", [
    pytest.param("transformer", TRANSFORMER, 2, marks=pytest.mark.long),
    ("recurrent", RECURRENT, 4)])
def test_a_transfer_matches_each_side_by_its_own_tokens(folder, name, model, leaves):
  work = lambda which: folder / f"{name}_{which}"
  loop.train(_run(folder, "first", model), work("first"))
  run = _run(folder, "second", model, transfer=PLAN,
             source=config.Source(path=str(work("first"))))

  loop.train(run, work("second"))

  old, new = (trained.open(work(which)).tokenizer for which in ("first", "second"))
  theirs, ours = (small_runs.params(work(which), 1) for which in ("first", "second"))
  for leaf, side in zip(TABLES, SIDES):
    assert theirs[leaf].shape[0] == side(old).size != side(new).size
    assert ours[leaf].shape[0] == side(new).size
    for character in "h 7" if side(new) is not new else "s 7":
      [there], [here] = (side(one).encode(character) for one in (old, new))
      # With a learning rate of 1e-9, one step leaves the rows where they started.
      np.testing.assert_allclose(ours[leaf][here], theirs[leaf][there], atol=1e-6)
  assert side(old).size != tokenizers.for_encoder(old).size
  # Each side's own share of the text is counted.
  audit = (work("second") / "audit.txt").read_text()
  assert audit.count("100.0% of the text") == leaves
  stored = codec.read_run(work("second")).model
  assert stored.encoder_vocab_size == tokenizers.for_encoder(new).size


def test_each_side_is_trained_on_its_own_texts_and_saved(folder, tmp_path):
  loop.train(_run(folder, "first", RECURRENT), tmp_path / "w")

  model = trained.open(tmp_path / "w")
  inputs = tokenizers.for_encoder(model.tokenizer)
  facts = json.loads((tmp_path / "w" / "data.json").read_text())

  assert inputs.encode("a") and b"a" not in model.tokenizer.tokens
  assert model.tokenizer.encode("n") and b"n" not in inputs.tokens
  assert facts["encoder_tokenizer"]["size"] == inputs.size
  assert facts["tokenizer"]["size"] == model.tokenizer.size
  assert len(model.answers(["1 aah"]).texts) == 1
  with pytest.raises(errors.UserError, match=r"'n' \(U\+006E\)"):
    model.answers(["1 nn"], strict=True)


def test_sides_of_several_sizes_are_evaluated_without_reading_beyond_a_table(
    folder, tmp_path):
  # Letters that only targets have give their padding an id that inputs lack.
  run = _run(folder, "first", RECURRENT, tokenizer=config.Tokenizer(kind="bytes"))
  loop.train(run, tmp_path / "w")
  model = trained.open(tmp_path / "w")

  scores = model.score(model.data()[0], "test")

  assert np.isfinite(scores.nats).all() and model.tokenizer.size > 200


def test_a_run_continues_with_the_tokenizers_that_it_saved(folder, tmp_path):
  run = _run(folder, "first", RECURRENT)
  run.train.steps = 2
  loop.train(run, tmp_path / "w", stop=1)

  assert loop.train(run, tmp_path / "w")["step"] == 2


def test_a_source_of_two_alphabets_moves_into_one_tokenizer(folder, tmp_path):
  loop.train(_run(folder, "first", RECURRENT), tmp_path / "first")
  run = _run(folder, "second", RECURRENT, encoder_tokenizer=None, transfer=PLAN,
             source=config.Source(path=str(tmp_path / "first")))

  loop.train(run, tmp_path / "w")

  old, new = (trained.open(tmp_path / which).tokenizer for which in ("first", "w"))
  theirs, ours = (small_runs.params(tmp_path / which, 1) for which in ("first", "w"))
  for leaf, side, letter in zip(TABLES, SIDES, "hs"):
    [there], [here] = side(old).encode(letter), new.encode(letter)
    np.testing.assert_allclose(ours[leaf][here], theirs[leaf][there], atol=1e-6)


def test_a_teacher_of_another_input_tokenizer_is_refused(folder, tmp_path):
  loop.train(_run(folder, "first", TRANSFORMER), tmp_path / "teacher")
  saved = str(tmp_path / "teacher" / "tokenizer" / "targets")
  run = _run(folder, "second", TRANSFORMER,
             tokenizer=config.Tokenizer(kind="file", path=saved),
             distill=config.Distill(
                 teacher=config.Source(path=str(tmp_path / "teacher"))))

  with pytest.raises(errors.UserError, match="the teacher's .* are not the model's"):
    audited.write(run, tmp_path / "w", 0.0)
  inputs = str(tmp_path / "teacher" / "tokenizer" / "inputs")
  run = dataclasses.replace(
      run, encoder_tokenizer=config.Tokenizer(kind="file", path=inputs))
  audited.write(run, tmp_path / "w", 0.0)


def test_transformers_gets_no_tokenizer_of_two_sides(tmp_path):
  both = tokenizers.for_both_sides(*(tokenizers.build(
      config.Tokenizer(kind="characters"), [text]) for text in ("ab", "cd")))

  [note] = hugging_face_tokenizer.write(epath.Path(tmp_path), TRANSFORMER, both)

  assert "no tokenizer of two sides" in note and not [*tmp_path.iterdir()]


def test_a_flag_gives_inputs_a_tokenizer_of_their_own(
    folder, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "config.py").write_text(f"""
from transfer_gen import config
def get_config():
  return config.Run(
      model=config.EncoderDecoder(num_layers=1, width=8, num_heads=2),
      data=config.Data(name="files", length=24,
                       train="{folder / 'first.in'}|{folder / 'first.out'}"))
""")

  printed = cli.run(
      capsys, "plan", "--config=config.py", "--workdir=w",
      "--config.tokenizer.kind=bytes", "--config.encoder_tokenizer.kind=characters")

  # 8 letters, 10 digits, a space and 5 special tokens are read, 260 tokens written.
  assert "(24,8)" in printed and "(260,8)" in printed


def test_a_second_tokenizer_needs_an_encoder(folder, tmp_path):
  run = _run(folder, "first", small_runs.RNN)

  with pytest.raises(errors.UserError, match="the model has no encoder"):
    audited.write(run, tmp_path / "w", 0.0)


def test_a_config_of_an_earlier_version_has_one_tokenizer(folder):
  data = codec.run_to_json(_run(folder, "first", RECURRENT))
  del data["encoder_tokenizer"]
  data["source"] = {"path": "w", "map": "", "vocabulary": "refuse", "run": "",
                    "step": -1, "moments": False}

  run = codec.run_from_json(data)

  assert run.encoder_tokenizer is None and run.source.tokenizer == ""
  full = codec.run_from_json(codec.run_to_json(_run(folder, "first", RECURRENT)))
  assert full.encoder_tokenizer == config.Tokenizer(kind="characters")


def test_a_tokenizer_that_has_two_sides_cannot_be_one_of_them():
  both = tokenizers.for_both_sides(*(tokenizers.build(
      config.Tokenizer(kind="characters"), [text]) for text in ("ab", "cd")))

  with pytest.raises(errors.UserError, match="has two sides itself"):
    tokenizers.for_both_sides(both, both)
