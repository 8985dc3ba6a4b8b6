"""Tests that scores equal what the commands of sacreBLEU and rouge-score print."""

import csv
import json
import random
import re
import subprocess
import sys

import pytest

from transfer_gen.metrics import bootstrap
from transfer_gen.metrics import measures

_WORDS = ("a the cat dog sat ran on under mat tree Straße café 3.5 it's well-known , ."
          " ! ( ) „ja“ 猫 x").split()


def _texts():
  """Returns 60 outputs of two runs, and two references each, of random words."""
  generator = random.Random(3)
  write = lambda: " ".join(generator.choices(_WORDS, k=generator.randint(1, 12)))
  first = [write() for _ in range(60)]
  second = [write() for _ in range(60)]

  def near(text):
    return " ".join(word if generator.random() < 0.6 else generator.choice(_WORDS)
                    for word in text.split())

  references = [(near(a), near(b)) for a, b in zip(first, second)]
  return first, second, references


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory):
  """Writes the texts, one a line, and returns their folder and the texts."""
  folder = tmp_path_factory.mktemp("texts")
  first, second, references = _texts()
  for name, lines in (("first", first), ("second", second),
                      ("one", [one for one, _ in references]),
                      ("two", [two for _, two in references])):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
  return folder, first, second, references


def _sacrebleu(folder, *words):
  return subprocess.run(
      [sys.executable, "-m", "sacrebleu", *words, "--width=4"],
      cwd=folder, check=True, capture_output=True, text=True).stdout


def _measured(outputs, references, *names):
  return measures.measure(names, measures.Evidence(
      outputs=outputs, references=references))


def test_scores_signatures_and_intervals_equal_those_that_sacrebleu_prints(files):
  folder, first, _, references = files
  printed = json.loads(_sacrebleu(
      folder, "one", "two", "--input=first", "--metrics", "bleu", "chrf", "ter",
      "--confidence"))

  found = _measured(first, references, "bleu", "chrf", "ter")

  for theirs, ours in zip(printed, found.values()):
    assert theirs["score"] == round(ours.score(), 4)
    low, high = bootstrap.interval(ours)
    assert theirs["confidence_var"] == pytest.approx((high - low) / 2, abs=1e-3)
    # Theirs also states the number and the seed of the samples.
    bare = theirs["signature"].replace("bs:1000|seed:12345|", "")
    assert ours.signature == bare
  assert len({round(one.score()) for one in found.values()}) == 3


@pytest.mark.parametrize("name, words", [
    ("bleu_char", ["--tokenize=char"]), ("bleu_intl", ["--tokenize=intl"]),
    ("bleu_zh", ["--tokenize=zh"]),
    ("chrf++", ["--metrics=chrf", "--chrf-word-order=2"])])
def test_other_kinds_equal_the_command_line_with_one_reference(files, name, words):
  folder, first, _, references = files
  printed = json.loads(_sacrebleu(folder, "one", "--input=first", *words))

  found = _measured(first, [reference[:1] for reference in references], name)[name]

  assert printed["score"] == round(found.score(), 4)
  assert printed["signature"] == found.signature


def test_p_values_equal_those_of_the_paired_tests_of_sacrebleu(files):
  folder, first, second, references = files
  found = bootstrap.compare(_measured(second, references, "bleu")["bleu"],
                            _measured(first, references, "bleu")["bleu"])

  for test, key in (("--paired-bs", "p_bootstrap"), ("--paired-ar", "p_randomization")):
    # As a table: in JSON this version of sacreBLEU fails to write its numbers.
    printed = _sacrebleu(folder, "one", "two", "-i", "first", "second", test,
                         "--metrics", "bleu", "--format=text")
    assert re.findall(r"p = (0\.\d{4})", printed) == [f"{found[key]:.4f}"]
    assert 0.001 < found[key] < 1  # Not a bound.


def test_a_document_may_have_fewer_references_than_others():
  outputs, references = ["a b c d", "e f g h"], [("a b c d", "x"), ("e f g z",)]

  found = _measured(outputs, references, "bleu")["bleu"]

  alone = _measured(outputs, [("a b c d",), ("e f g z",)], "bleu")["bleu"]
  assert found.score() == alone.score() and found.signature.startswith("nrefs:var|")


def test_rouge_equals_the_command_line_document_by_document(files, tmp_path):
  folder, first, _, references = files
  subprocess.run(
      [sys.executable, "-m", "rouge_score.rouge", f"--target_filepattern={folder}/one",
       f"--prediction_filepattern={folder}/first", "--noaggregate",
       "--rouge_types=rouge1,rouge2,rougeL,rougeLsum",
       f"--output_filename={tmp_path}/scores.csv"], check=True, capture_output=True)
  rows = [*csv.DictReader((tmp_path / "scores.csv").open())]

  found = _measured(
      first, [reference[:1] for reference in references], *measures.GROUPS["rouge"])

  for kind, ours in found.items():
    theirs = [row[f"{kind}-F"] for row in rows]
    assert [f"{score:f}" for score in ours.statistics[:, 0]] == theirs
    assert ours.score() == pytest.approx(sum(map(float, theirs)) / 60, abs=1e-6)
    assert 0 < ours.score() < 1


def test_rouge_takes_the_best_of_several_references():
  found = _measured(["a b"], [("x y", "a b c d", "a b c")], "rouge1")["rouge1"]

  assert found.score() == pytest.approx(2 * 1.0 * (2 / 3) / (1.0 + 2 / 3))
