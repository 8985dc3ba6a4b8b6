"""Tests for the config files that come with the package."""

import json

import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen.config import file as config_file
from transfer_gen.study import from_run

FIELDS = {"translate": ("input", "target"), "summarize": ("document", "summary"),
          "instruct": ("prompt", "answer")}
SHORT = ("--config.train.steps=2", "--config.model.width=8",
         "--config.model.num_heads=2", "--config.model.num_layers=1",
         "--config.tokenizer.kind=bytes", "--config.data.length=32")


@pytest.mark.parametrize("name", config_file.recipes())
def test_a_recipe_is_a_config_that_a_copy_equals(tmp_path, capsys, name):
  copy = tmp_path / "copy.py"

  cli.run(capsys, "recipes", name, f"--copy={copy}")

  ours, theirs = map(config_file.load_run, (f"recipe:{name}", str(copy)))
  for run in (ours, theirs):  # Functions of two files are two objects.
    run.transfer = None
  assert ours == theirs and ours.source is None


def test_the_list_has_one_line_for_each_recipe(capsys):
  printed = cli.run(capsys, "recipes").split("\n\n")[0].splitlines()

  assert [line.split()[0] for line in printed] == sorted(config_file.recipes())
  assert max(map(len, printed)) <= 100 and len(printed) == 9


def test_a_recipe_shows_its_fields_and_what_is_chosen(capsys):
  printed = cli.run(capsys, "recipes", "translate")

  assert "data.input_field='input'" in printed
  assert "train.steps=0  (chosen from data and devices)" in printed
  assert "optim.lr=0  (chosen from data and devices)" in printed


@pytest.mark.parametrize("words, message", [
    (["recipes", "translat"], "Nearest: translate"),
    (["recipes", "--copy=x.py"], "needs a name"),
    (["recipes", "grow", "distill"], "'distill' is not a flag"),
    (["plan", "--config=recipe:summarise", "--workdir=w"], "Nearest: summarize"),
    (["plan", "--config=recipe:grow", "--workdir=w", "--config.data.train=text.txt"],
     "needs a model and sizes"),
    (["plan", "--config=recipe:distill", "--workdir=w", "--config.data.train=text.txt"],
     "needs a teacher"),
    (["plan", "--config=recipe:new_vocabulary", "--workdir=w",
      "--config.data.train=text.txt"], "needs a model to start from"),
    (["study", "--config=recipe:translate", "--workdir=w"], "nothing to compare"),
])
def test_a_mistake_is_answered_in_one_message(folder, capsys, words, message):
  assert message in cli.refused(capsys, *words)


def test_an_existing_file_is_not_overwritten(folder, capsys):
  assert "exists already" in cli.refused(
      capsys, "recipes", "grow", "--copy=text.txt")


@pytest.mark.parametrize("name", FIELDS)
def test_a_recipe_of_pairs_trains_from_two_columns_alone(folder, capsys, name):
  a, b = FIELDS[name]
  rows = [{a: f"{i} apples", b: f"apples {i}"} for i in range(60)]
  (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  words = (f"--config=recipe:{name}", "--config.data.train=pairs.jsonl",
           "--workdir=w", *SHORT)
  printed = cli.run(capsys, "plan", *words)

  assert "model=config.EncoderDecoder(" in printed
  if name == "translate":
    lines = cli.run(capsys, "train", *words, "--evaluate").splitlines()
    scores = json.loads(lines[-1])
    assert {"bleu", "chrf"} <= scores.keys() and scores["intervals"]["bleu"]
    assert json.loads(next(line for line in lines if line.startswith("{")))["step"] == 2


@pytest.mark.parametrize("name, words, message", [
    ("language_model", (), "100.0% of the target's params come from a source"),
    ("new_vocabulary", (), "mixed"),
    ("grow", ("--config.model.num_layers=2",), "starts as the identity"),
])
def test_a_recipe_takes_a_source_and_needs_no_python(
    folder, capsys, name, words, message):
  cli.train_source(folder, capsys)

  printed = cli.run(
      capsys, "plan", f"--config=recipe:{name}", "--config.data.train=text.txt",
      "--config.source.path=first", "--workdir=w", *words)

  assert message in printed


def test_a_denoiser_is_a_source_for_summaries(folder, capsys):
  small = [word for word in SHORT if "bytes" not in word]
  printed = cli.run(capsys, "train", "--config=recipe:denoise", "--workdir=first",
                    "--config.data.train=text.txt", *small)

  assert "model=config.EncoderDecoder(" in printed
  assert "tokenizer.sentinels=32" in printed
  (folder / "pairs.jsonl").write_text("".join(json.dumps(
      {"document": f"{i} apples", "summary": f"apples {i}"}) + "\n" for i in range(60)))
  planned = cli.run(
      capsys, "plan", "--config=recipe:summarize", "--config.data.train=pairs.jsonl",
      "--config.source.path=first", "--workdir=w")
  assert "100.0% of the target's params come from a source" in planned
  refused = cli.refused(
      capsys, "plan", "--config=recipe:denoise", "--config.data.train=text.txt",
      "--config.source.path=first", "--workdir=v", "--config.tokenizer.sentinels=3")
  assert "keeps the tokens that it has" in refused


def test_a_study_of_a_recipe_compares_it_with_the_same_run_from_scratch(folder, capsys):
  cli.train_source(folder, capsys)
  (folder / "text.txt").write_text("".join(
      f"the {i}th thing has {i} lines\n" for i in range(120)))

  printed = cli.run(
      capsys, "study", "--config=recipe:language_model", "--workdir=w", "--seeds=2",
      "--config.data.length=32", "--config.train.batch_size=8",
      "--config.data.train=text.txt", "--config.source.path=first",
      "--config.train.steps=2")

  summary = json.loads(printed.splitlines()[-1])
  assert summary["seeds"] == 2
  assert {"transfer_test_loss", "scratch_test_loss"} < summary.keys()
  facts = [json.loads((folder / "w" / name / "seed_0" / "lr_chosen" / "audit.json"
                       ).read_text())["coverage"] for name in ("transfer", "scratch")]
  assert facts == [1.0, 0.0]
  # A control learns at the rate of a new model.
  assert summary["lrs"]["scratch"] == pytest.approx(
      3 * summary["lrs"]["transfer"], rel=0.05)


def test_scratch_has_the_model_and_the_tokens_of_its_pair():
  run = config_file.load_run("recipe:language_model")
  run.source = config.Source(path="there")

  study = from_run.study(run)

  transfer, scratch = study.runs["transfer"], study.runs["scratch"]
  assert scratch.transfer.rules[0].source is None
  assert (scratch.model, scratch.tokenizer, scratch.data, scratch.optim) == (
      transfer.model, transfer.tokenizer, transfer.data, transfer.optim)
