"""Tests for `transfer-gen evaluate`: which texts it scores, by what, and its files."""

import json
import random

import pytest
import sacrebleu
import torch

from tests import small_runs
from tests.commands import cli
from tests.run import trained_test
from transfer_gen import config
from transfer_gen.run import loop

_WORDS = "ab ba cab abc".split()


def _pairs(seed, count):
  generator = random.Random(seed)
  words = [" ".join(generator.choices(_WORDS, k=4)) for _ in range(count)]
  return [{"a": word, "b": word.upper()} for word in words]


def _write(path, lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory):
  """Trains `w` and `other`, which differ in their tokenizers, on pairs."""
  folder = tmp_path_factory.mktemp("runs")
  _write(folder / "pairs.jsonl", _pairs(0, 200))
  for name, kind in (("w", "characters"), ("other", "bytes")):
    loop.train(small_runs.configure(
        folder / "pairs.jsonl",
        config.Decoder(num_layers=1, width=8, num_heads=2, max_length=64), steps=3,
        data=config.Data(name="files", train=str(folder / "pairs.jsonl"), length=48,
                         input_field="a", target_field="b"),
        decoding=config.Decoding(max_tokens=12),
        tokenizer=config.Tokenizer(kind=kind)), folder / name)
  return folder


@pytest.fixture(name="here")
def _here(runs, monkeypatch):
  monkeypatch.chdir(runs)
  return runs


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _evaluated(capsys, *words):
  printed = cli.run(capsys, "evaluate", *words)
  return json.loads(printed.splitlines()[-1]), printed


def test_pairs_are_scored_by_losses_bleu_and_chrf_by_default(here, capsys):
  facts, printed = _evaluated(
      capsys, "--workdir=w", "--output=out.jsonl", "--samples=1", "--sheet=sheet.md")

  lines = _lines(here / "out.jsonl")
  outputs = [line["output"] for line in lines]
  references = [[line["references"][0] for line in lines]]
  assert [line["references"][0] for line in lines] == [
      line["input"].upper() for line in lines]
  assert facts["bleu"] == sacrebleu.corpus_bleu(outputs, references).score
  assert facts["chrf"] == sacrebleu.corpus_chrf(outputs, references).score
  assert facts["intervals"]["chrf"][0] <= facts["chrf"] <= facts["intervals"]["chrf"][1]
  assert f"bleu: {facts['signatures']['bleu']}" in printed
  assert "metrics: losses, bleu, chrf (pairs with targets about as long" in printed
  # The same numbers are kept in the workdir, with the losses of each document.
  kept = json.loads((here / "w" / "scores_test.json").read_text())
  assert {name: kept[name] for name in ("loss", "bleu", "chrf")} == {
      name: facts[name] for name in ("loss", "bleu", "chrf")}
  assert len(kept["nats"]) == facts["documents"] == len(lines)
  assert f"input      {lines[0]['input']}" in printed  # The sample.
  sheet = (here / "sheet.md").read_text().splitlines()
  assert sheet[2] == "| input | reference | w |" and len(sheet) == 4 + 1


def test_own_texts_with_several_references_leave_the_workdir_alone(here, capsys):
  _write(here / "own.jsonl", [{"x": "ab cab", "y": ["AB CAB", "AC"]},
                              {"x": "ba", "y": ["BA", "B", "A"]}])
  before = sorted((here / "w").iterdir())
  facts, _ = _evaluated(capsys, "--workdir=w", "--data=own.jsonl", "--input_field=x",
                        "--target_field=y", "--metrics=ter", "--output=own_out.jsonl")

  lines = _lines(here / "own_out.jsonl")
  assert [line["references"] for line in lines] == [["AB CAB", "AC"], ["BA", "B", "A"]]
  assert facts["ter"] == sacrebleu.corpus_ter(
      [line["output"] for line in lines],
      [["AB CAB", "BA"], ["AC", "B"], [None, "A"]]).score
  assert facts["documents"] == 2 and facts["signatures"]["ter"].startswith("nrefs:var")
  assert sorted((here / "w").iterdir()) == before


def test_two_runs_are_compared_by_what_their_tokenizers_have_in_common(here, capsys):
  facts, printed = _evaluated(
      capsys, "--workdir=w", "--against=other", "--metrics=chrf", "--sheet=both.html")

  found = facts["against"]["differences"]
  assert found.keys() == {"bits_per_byte", "word_perplexity", "chrf"}
  assert found["bits_per_byte"]["difference"] == pytest.approx(
      facts["bits_per_byte"] - facts["against"]["bits_per_byte"])
  assert found["bits_per_byte"]["better"] == (found["bits_per_byte"]["difference"] < 0)
  assert "w against other:" in printed
  page = (here / "both.html").read_text()
  for column in ("input", "reference", "w", "other"):
    assert f">{column}</th>" in page
  same, _ = _evaluated(capsys, "--workdir=w", "--against=w", "--documents=5")
  assert same["against"]["differences"]["loss"]["difference"] == 0


def test_changed_data_are_refused(here, capsys):
  text = (here / "pairs.jsonl").read_text()
  (here / "w" / "scores_test.json").unlink(missing_ok=True)
  _write(here / "pairs.jsonl", _pairs(1, 300))

  message = cli.refused(capsys, "evaluate", "--workdir=w")

  (here / "pairs.jsonl").write_text(text)
  assert "w: its data changed since it was trained" in message
  assert "give --data=FILE" in message
  assert not (here / "w" / "scores_test.json").exists()


def test_a_converted_t5_needs_data_and_scores_as_transformers_does(
    tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  inputs, targets = ("abca", "hgf", "d"), ("bbb", "cc", "abcdefgh")
  model = trained_test.saved(tmp_path / "in")
  cli.run(capsys, "convert", "--source=in", "--output=t5")
  (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in inputs))
  (tmp_path / "b.txt").write_text("".join(f"{line}\n" for line in targets))

  message = cli.refused(capsys, "evaluate", "--workdir=t5")
  facts, _ = _evaluated(
      capsys, "--workdir=t5", "--data=a.txt|b.txt", "--max_tokens=8",
      "--metrics=bleu_char,token_accuracy", "--output=out.jsonl")

  assert "was converted, and no data belongs to it. Give --data=FILE" in message
  ids = lambda text: torch.tensor(
      [[trained_test.TOKENS.index(letter) for letter in text] + [1]])
  nats, hits, count = 0.0, 0, 0
  with torch.no_grad():
    for source, target in zip(inputs, targets):
      out = model(input_ids=ids(source), labels=ids(target))
      nats += float(out.loss) * ids(target).numel()
      hits += int((out.logits.argmax(-1) == ids(target)).sum())
      count += ids(target).numel()
  assert facts["loss"] == pytest.approx(nats / count, abs=1e-5)
  assert facts["token_accuracy"] == pytest.approx(hits / count)
  outputs = [line["output"] for line in _lines(tmp_path / "out.jsonl")]
  assert outputs == [trained_test.theirs(model, text, 1) for text in inputs]
  assert facts["bleu_char"] == sacrebleu.corpus_bleu(
      outputs, [list(targets)], tokenize="char").score


def test_inputs_alone_are_scored_by_what_needs_no_reference(here, capsys):
  (here / "inputs.txt").write_text("ab\n\nba ab\n")

  facts, printed = _evaluated(capsys, "--workdir=w", "--data=inputs.txt")
  message = cli.refused(
      capsys, "evaluate", "--workdir=w", "--data=inputs.txt", "--metrics=chrf")

  assert "distinct1" in facts and "loss" not in facts
  assert "1 blank texts are left out." in printed
  assert "chrf: compared with references, but 2 of 2 documents have none" in message


@pytest.mark.parametrize("words, message", [
    (["--metrics=chrff"], "'chrff' is not a metric. Did you mean 'chrf'"),
    (["--split=dev"], "--split is 'dev', must be one of train, validation, test"),
    (["--input_field=x"], "--input_field and --target_field are for --data"),
    (["--metrics=loss", "--output=o.jsonl"], "--output: losses need no written texts"),
    (["--sheet=s.pdf"], "a sheet ends in .html or .md"),
    (["--data=none.txt"], "there is no file none.txt"),
    (["--data=pairs.jsonl", "--input_field=nope"], "nope")])
def test_mistakes_get_one_clear_error(here, capsys, words, message):
  assert message in cli.refused(capsys, "evaluate", "--workdir=w", *words)
  assert not (here / "o.jsonl").exists()


def test_texts_of_a_language_model_are_scored_by_losses(folder, capsys):
  cli.train(capsys, "--config=config.py", "--workdir=lm")

  (folder / "long.txt").write_text("t h e l i n s o f g\n")

  facts, printed = _evaluated(capsys, "--workdir=lm")
  written, _ = _evaluated(
      capsys, "--workdir=lm", "--data=long.txt", "--metrics=novelty,distinct",
      "--max_tokens=8", "--output=lm.jsonl")
  short = cli.refused(capsys, "evaluate", "--workdir=lm", "--metrics=distinct")
  message = cli.refused(capsys, "evaluate", "--workdir=lm", "--data=text.txt|text.txt")

  assert "metrics: losses (texts of a language model)" in printed
  assert "written with" not in printed and "bleu" not in facts
  # The model goes on after the first eight words, and the rest is what it missed.
  assert _lines(folder / "lm.jsonl")[0] == {
      "input": "t h e l i n s o", "references": ["f g"],
      "output": _lines(folder / "lm.jsonl")[0]["output"]}
  assert "novelty" in written and 0 < written["distinct1"] <= 1
  assert "texts end within their first 8 words" in short
  assert "was trained on texts without inputs, and the documents are pairs" in message
