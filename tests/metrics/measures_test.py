"""Tests for metrics by name, and for those that no other library computes."""

import math

import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.metrics import bootstrap
from transfer_gen.metrics import measures


def _score(name, **evidence):
  return measures.measure([name], measures.Evidence(**evidence))[name].score()


def test_an_exact_match_may_be_any_reference_and_folds_white_space():
  score = _score("exact_match", outputs=["a  b\n", "A b", "c"],
                 references=[("x", "a b"), ("a b",), ("c",)])

  assert score == pytest.approx(2 / 3)


def test_distinct_counts_different_ngrams_of_all_outputs():
  outputs = ["a b a b", "a b c", "d"]

  assert _score("distinct1", outputs=outputs) == pytest.approx(4 / 8)  # a b c d
  assert _score("distinct2", outputs=outputs) == pytest.approx(3 / 5)  # ab ba bc


def test_the_interval_of_distinct_holds_its_score():
  generator = np.random.default_rng(0)
  words = [f"w{i}" for i in range(40)]
  outputs = [" ".join(generator.choice(words, 12)) for _ in range(100)]

  found = measures.measure(["distinct2"], measures.Evidence(outputs=outputs))

  # Documents that are drawn twice would lower a distinct-n that was counted anew.
  low, high = bootstrap.interval(found["distinct2"])
  assert low < found["distinct2"].score() < high < 1


def test_repetition_is_the_mean_share_of_repeated_ngrams():
  outputs = ["a b c d a b c d", "a b c d e", "too short here"]

  # The first has 5 n-grams of 4 words and 4 different ones, the second repeats none.
  assert _score("repetition", outputs=outputs) == pytest.approx((1 / 5 + 0) / 2)


def test_novelty_is_the_share_of_ngrams_that_training_lacks():
  outputs = ["a b c d e", "x y z w"]

  score = _score("novelty", outputs=outputs, training=["0 a b c d", "x y z"])

  assert score == pytest.approx(2 / 3)  # bcde and xyzw, but not abcd.


def test_nothing_to_count_scores_nan():
  assert math.isnan(_score("repetition", outputs=["a b", ""]))


def test_losses_divide_the_same_nats_by_tokens_words_and_bytes():
  evidence = dict(
      nats=np.array([6.0, 3.0, 0.0]), tokens=np.array([4, 2, 0]),
      text_bytes=np.array([10, 5, 99]), targets=["one two", "three", "left out"],
      hits=np.array([3.0, 0.0, 0.0]))

  assert _score("loss", **evidence) == pytest.approx(9 / 6)
  assert _score("perplexity", **evidence) == pytest.approx(math.exp(9 / 6))
  assert _score("word_perplexity", **evidence) == pytest.approx(math.exp(9 / 3))
  assert _score("bits_per_byte", **evidence) == pytest.approx(9 / math.log(2) / 15)
  assert _score("token_accuracy", **evidence) == pytest.approx(3 / 6)


def test_every_metric_measures_with_the_name_and_direction_of_its_entry():
  evidence = measures.Evidence(
      nats=np.ones(2), tokens=np.ones(2, int), text_bytes=np.ones(2, int),
      targets=["a", "b"], hits=np.ones(2), outputs=["a b c d e"] * 2,
      references=[("a b c d f",)] * 2, training=["x"])

  for name, found in measures.measure([*measures.METRICS], evidence).items():
    assert found.name == name and found.higher == measures.METRICS[name].higher
    assert math.isfinite(found.score()), name
    assert len(found.statistics) == 2


def test_an_unknown_metric_is_refused_with_the_nearest_one():
  with pytest.raises(errors.UserError, match="is not a metric. Did you mean 'bleu'"):
    measures.names(["chrf", "blue"])


def test_a_group_stands_for_its_metrics_once():
  assert measures.names(["rougeL", "rouge"]) == (
      "rougeL", "rouge1", "rouge2", "rougeLsum")


@pytest.mark.parametrize("references, message", [
    ([("a",), ()], "1 of 2 documents have none, the first being number 2"),
    ([("",), ("",)], "2 of 2"), ([], "there are none")])
def test_metrics_that_compare_are_refused_without_references(references, message):
  with pytest.raises(errors.UserError, match=f"bleu, ter: compared .* {message}"):
    measures.measure(["bleu", "distinct1", "ter"], measures.Evidence(
        outputs=["a", "b"], references=references))


def test_needs_of_metrics_include_outputs():
  assert measures.needed(["loss"]) == {"losses"}
  assert measures.needed(["bleu", "token_accuracy"]) == {
      "references", "outputs", "hits"}
  assert measures.needed(["novelty"]) == {"training", "outputs"}


def test_a_note_of_sacrebleu_is_said_once_in_a_process(caplog):
  outputs = [f"word {i} ." for i in range(100)]
  quiet = [f"word {i}." for i in range(100)]

  for texts in (quiet, outputs, quiet, outputs, outputs[::-1]):
    _score("bleu", outputs=texts, references=[("word .",)] * 100)

  said = [one.getMessage() for one in caplog.records if one.name == "sacrebleu"]
  assert sum("forgot to detokenize" in one for one in said) == 1
  assert len(said) == len(set(said)) == 3
