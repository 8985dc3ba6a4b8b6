"""Tests for language models that read and write texts from right to left."""

import dataclasses
import json

import numpy as np
import pytest

from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.config import codec
from transfer_gen.data import document
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.run import answers
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.run import trained
from transfer_gen.run import writing

LETTERS = "abcdefghijklmnop"
MODEL = config.Recurrent(num_layers=1, embed_width=16, hidden_width=24,
                         forget_bias=0.0)


def prepared(texts, **fields):
  tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), ["abcdefgh"])
  documents = {split: [document.Document("", text) for text in texts]
               for split in document.SPLITS}
  return tokenizer, pipeline.prepare(
      config.Data(length=8, **fields), documents, tokenizer, {}, None)


@pytest.mark.parametrize("packing", ["separate", "joined"])
def test_rows_hold_the_tokens_of_each_text_in_reverse_between_its_marks(packing):
  texts = ["abc", "defgh", "a"]
  tokenizer, data = prepared(texts, reverse=True, packing=packing)
  _, straight = prepared([text[::-1] for text in texts], packing=packing)

  mine, wanted = (next(iter(one.evaluation_batches("test", 4)))
                  for one in (data, straight))

  for name in ("inputs", "targets", "weights"):
    np.testing.assert_array_equal(mine[name], wanted[name])
  bos = tokenizer.roles["bos"]
  flat = mine["inputs"].ravel().tolist()
  assert [bos, *tokenizer.encode("hgfed")] in [
      flat[i:i + 6] for i in range(len(flat))]
  assert "the tokens of each text are read from the last to the first" in (
      data.facts["notes"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Trains on pieces of the alphabet: one run in each direction."""
  folder = tmp_path_factory.mktemp("reverse")
  rng = np.random.default_rng(0)
  pieces = [LETTERS[start:start + rng.integers(6, 17)]
            for start in rng.integers(0, 8, 300).tolist()]
  (folder / "text.txt").write_text("".join(
      f"{' '.join(piece)}\n" for piece in pieces))
  found = {}
  for name, reverse in (("left", False), ("right", True)):
    run = small_runs.configure(
        folder / "text.txt", MODEL, steps=150, lr=0.03, length=16, log_every=150,
        tokenizer=config.Tokenizer(size=280))
    run.data.reverse = reverse
    loop.train(run, folder / name)
    found[name] = folder / name
  return found


def test_a_trained_model_writes_what_stands_before_a_prompt(runs, capsys):
  written = cli.run(capsys, "generate", f"--workdir={runs['right']}",
                    "--prompt= g h i", "--max_tokens=40")
  several = cli.run(capsys, "generate", f"--workdir={runs['right']}",
                    "--prompt= g h i", "--prompt= l m", "--stop=b", "--max_tokens=40")

  assert written == "a b c d e f\n"
  assert several.splitlines()[1::2] == [" c d e f", " c d e f g h i j k"]
  straight = cli.run(capsys, "generate", f"--workdir={runs['left']}",
                     "--prompt=g h i", "--max_tokens=4")
  assert straight == " j k l m\n"
  model = trained.open(runs["right"])
  parts = []
  answer = model.stream(" g h i", config.Decoding(max_tokens=3), parts.append)
  assert "".join(parts) == answer == " d e f"


def test_evaluation_shows_texts_in_reading_order(runs, capsys, tmp_path):
  last = cli.run(
      capsys, "evaluate", f"--workdir={runs['right']}", "--metrics=loss,chrf",
      f"--output={tmp_path / 'out.jsonl'}", "--documents=12").splitlines()[-1]

  lines = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
  assert lines and json.loads(last)["loss"] < 0.7
  for line in lines:
    [reference] = line["references"]
    assert reference + line["input"] in " ".join(LETTERS)
    letters = line["output"].split()
    assert "".join(letters) in LETTERS
    assert LETTERS.index(letters[-1]) + 1 == LETTERS.index(line["input"].split()[0])


def test_a_text_and_its_answers_are_put_together_in_reading_order(runs, tmp_path):
  found = writing.prompt(document.Document("", "1 2 3 4 5 6 7 8 9 10"), reverse=True)
  answers.write(runs["right"], tmp_path / "more.jsonl", config.Decoding(max_tokens=4),
                prompts=[" g h"])

  assert found == (" 3 4 5 6 7 8 9 10", ("1 2",))
  assert json.loads((tmp_path / "more.jsonl").read_text())["target"] == " c d e f g h"


def test_a_source_of_the_other_direction_is_named_and_a_teacher_refused(
    runs, tmp_path):
  run = codec.read_run(runs["left"])
  run.source = config.Source(path=str(runs["right"]))
  notes = assemble.build(run, tmp_path / "w").inputs.notes
  run.distill = config.Distill(logits=1.0)

  assert ("source learned texts from right to left, and this run reads them from left"
          " to right: data.reverse") in notes
  with pytest.raises(errors.UserError, match="teacher that reads texts in the same"):
    assemble.build(run, tmp_path / "w")
  run.data.reverse = True
  assemble.build(run, tmp_path / "w")
  run.distill.vocabularies = "uld"
  with pytest.raises(errors.UserError, match="aligns texts that run from left to righ"):
    assemble.build(run, tmp_path / "w")


def test_what_is_known_of_the_direction_goes_along_with_a_checkpoint(
    runs, tmp_path, capsys):
  def convert(source, name, form):
    return cli.run(capsys, "convert", f"--source={source}", f"--to={form}",
                   f"--output={tmp_path / name}")

  told = convert(runs["right"], "keras", "keras")
  theirs = tmp_path / "keras" / "model.weights.h5"
  convert(theirs, "orbax", "orbax")

  assert "from right to left (data.reverse), which no file there says" in told
  known = [sources.open(path).reverse for path in (
      runs["left"], runs["right"], theirs, tmp_path / "orbax")]
  assert known == [False, True, None, None]


@pytest.mark.parametrize("fields, message", [
    (dict(input_field="a"), "it is for a language model, and these texts are pairs"),
    (dict(corrupt=config.Corrupt(noise=("copy",))), "without noise"),
])
def test_pairs_are_not_turned(fields, message):
  with pytest.raises(errors.UserError, match=message):
    prepared(["ab"], reverse=True, **fields)


def test_drawings_are_not_turned():
  encoding = pipeline.Encoding(
      dataclasses.replace(config.Data(), reverse=True),
      tokenizers.build(config.Tokenizer(kind="strokes"), ["0 0 1 1 1 1"]))
  with pytest.raises(errors.UserError, match="it turns texts, and these are drawings"):
    encoding.check()
