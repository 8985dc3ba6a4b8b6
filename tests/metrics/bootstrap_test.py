"""Tests for intervals of scores and for paired tests of two runs."""

import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.metrics import bootstrap
from transfer_gen.metrics import measured


def _mean(values):
  return measured.share("mean", values, np.ones(len(values)), higher=True)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
  values = np.random.default_rng(0).normal(5.0, 2.0, 400)

  low, high = bootstrap.interval(_mean(values))

  error = values.std() / 400**0.5
  assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_a_shift_is_distinguished_from_noise():
  generator = np.random.default_rng(1)
  values = generator.normal(0.0, 3.0, 200)

  shifted = bootstrap.compare(_mean(values + 0.5), _mean(values))
  noise = bootstrap.compare(_mean(values + generator.normal(0, 1, 200)), _mean(values))

  # Documents vary far more than 0.5, but each one is compared with itself.
  assert shifted["difference"] == pytest.approx(0.5) and shifted["better"]
  assert shifted["low"] == pytest.approx(0.5) == shifted["high"]
  assert shifted["p_randomization"] < 0.001
  assert noise["low"] < 0 < noise["high"]
  assert min(noise["p_bootstrap"], noise["p_randomization"]) > 0.05


def test_runs_that_score_the_same_do_not_differ():
  same = bootstrap.compare(_mean(np.arange(9.0)), _mean(np.arange(9.0)))

  assert same["p_bootstrap"] == same["p_randomization"] == 1.0 and not same["better"]


def test_a_lower_score_is_better_where_the_metric_says_so():
  errors_of = lambda values: measured.share("ter", values, np.ones(3), higher=False)

  found = bootstrap.compare(errors_of([1.0, 2.0, 3.0]), errors_of([2.0, 3.0, 4.0]))

  assert found["difference"] == -1.0 and found["better"]


def test_many_documents_give_the_draws_of_few_at_a_time(monkeypatch):
  values = np.random.default_rng(2).normal(size=(2, 37))
  whole = bootstrap.compare(_mean(values[0]), _mean(values[1]))

  monkeypatch.setattr(bootstrap, "_CELLS", 37 * 100)

  assert bootstrap.compare(_mean(values[0]), _mean(values[1])) == whole


def test_samples_without_anything_to_count_do_not_spoil_the_interval():
  one_counts = measured.share("repetition", [0.5, 0, 0], [1, 0, 0], higher=False)

  assert bootstrap.interval(one_counts) == (0.5, 0.5)


def test_other_numbers_of_documents_are_refused():
  with pytest.raises(errors.UserError, match="3 documents of one run and 2 of the"):
    bootstrap.compare(_mean(np.ones(3)), _mean(np.ones(2)))
