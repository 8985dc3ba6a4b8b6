"""Tests for differences between runs over seeds and documents together."""

import numpy as np
import pytest
from scipy import stats

from transfer_gen import errors
from transfer_gen.metrics import likelihood
from transfer_gen.metrics import measured
from transfer_gen.metrics import nested


def _values(seeds=0.0, documents=0.0, rest=0.0, shape=(3, 60)):
  """Returns values with the given deviations by seed, by document, and beside them."""
  generator = np.random.default_rng(1)
  return (0.2 + seeds * generator.normal(size=(shape[0], 1))
          + documents * generator.normal(size=(1, shape[1]))
          + rest * generator.normal(size=shape))


def _student(means):
  """Returns the ends of Student's interval of a mean, and its p-value."""
  found = stats.ttest_1samp(means, 0.0)
  return [*found.confidence_interval(), found.pvalue]


@pytest.mark.parametrize("values, axis", [
    (_values(seeds=1, rest=1e-6), 1), (_values(documents=1, rest=1e-6), 0),
    (_values(rest=1, shape=(1, 60)), 0),
    (_values(seeds=1, rest=1e-6, shape=(2, 9)), 1)])
def test_if_only_one_factor_varies_the_interval_is_students(values, axis):
  found = nested.interval(values)

  assert [found["low"], found["high"], found["p"]] == pytest.approx(
      _student(values.mean(axis)), rel=1e-3, abs=1e-4)
  assert (found["seeds"], found["documents"]) == values.shape


def test_an_interval_holds_no_effect_exactly_if_p_is_not_below_a_twentieth():
  values = _values(seeds=1, documents=2, rest=1)
  values -= values.mean()
  half = nested.interval(values)["high"]

  outside, inside = (nested.interval(values + factor * half)
                     for factor in (1.01, 0.99))

  assert outside["low"] > 0 and 0.04 < outside["p"] < 0.05
  assert inside["low"] < 0 and 0.05 < inside["p"] < 0.06


def test_seeds_that_agree_by_chance_and_share_nothing_still_have_an_interval():
  values = _values(rest=1)
  values -= values.mean(1, keepdims=True)  # All seeds have the same mean.
  values -= 0.9 * values.mean(0)  # And documents vary less than the rest would have it.
  shifted = 1e-3 * np.arange(3)[:, None] + values

  found = nested.interval(shifted)

  # The spread of the seeds is all that is known: Student's t of their means.
  assert [found["low"], found["high"]] == pytest.approx(
      _student(shifted.mean(1))[:2], rel=1e-3)
  assert nested.interval(values)["low"] <= 0 <= nested.interval(values)["high"]


def test_more_seeds_do_not_make_up_for_few_documents():
  few, many = (nested.interval(_values(documents=1, rest=0.1, shape=(seeds, 20)))
               for seeds in (3, 30))

  width = lambda found: found["high"] - found["low"]
  assert width(many) > 0.8 * width(few)


def test_the_parts_of_documents_have_the_score_as_mean_and_the_spread_of_a_quotient():
  generator = np.random.default_rng(2)
  tokens = generator.integers(5, 50, 400)
  nats = tokens * generator.normal(3.0, 0.5, 400)
  found = likelihood.loss(nats, tokens)

  shares = nested.shares(found)

  # The linear part of a quotient of means (Cochran, 1977, section 6.3).
  linear = (nats - found.score() * tokens) / tokens.mean()
  assert shares.mean() == pytest.approx(found.score())
  assert shares.std() == pytest.approx(linear.std(), rel=0.01)


def test_a_document_that_holds_all_that_counts_leaves_every_part_finite():
  found = measured.share("loss", [3.0, 0.0, 0.0], [2, 0, 0], higher=False)

  assert nested.shares(found).tolist() == [1.5, 1.5, 1.5]


def test_a_lower_loss_is_better_and_seeds_are_ahead_by_it():
  tokens = np.full(40, 10)
  losses = [np.random.default_rng(seed).gamma(50.0, 1.0, 40) for seed in range(3)]
  first = [likelihood.loss(nats - change, tokens)
           for nats, change in zip(losses, (2.0, 1.0, -0.5))]

  found = nested.compare(first, [likelihood.loss(nats, tokens) for nats in losses])

  assert found["difference"] == pytest.approx(-(2.0 + 1.0 - 0.5) / 3 / 10)
  assert found["better"] and found["seeds_ahead"] == 2
  assert found["p_worse"] == pytest.approx(1 - found["p"] / 2)


def test_the_same_run_twice_is_no_difference_and_one_document_has_no_interval():
  run = measured.share("loss", [1.0, 2.0], [1, 1], higher=False)
  one = [measured.share("loss", [value], [1], higher=False) for value in (1.0, 3.0)]

  same, single = nested.compare([run], [run]), nested.compare(one[:1], one[1:])

  assert same["low"] == same["high"] == 0 and same["p"] == 1 and not same["better"]
  assert single["low"] == single["difference"] == single["high"] == -2.0
  assert single["p"] == 1


def test_other_numbers_of_documents_are_refused():
  runs = [measured.share("loss", np.ones(n), np.ones(n), higher=False) for n in (2, 3)]

  with pytest.raises(errors.UserError, match="other numbers of documents"):
    nested.compare(runs[:1], runs[1:])


def test_adjusted_p_values_are_those_of_holm():
  # The example of Holm's procedure: 4 * 0.01, 3 * 0.02, then never less than before.
  assert nested.holm([0.02, 0.6, 0.01, 0.03]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
  assert nested.holm([0.7, 0.8]) == [1.0, 1.0] and nested.holm([]) == []
