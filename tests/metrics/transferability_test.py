"""Tests for measures that need no training."""

import numpy as np
import pytest
from scipy import optimize
from scipy import stats

from transfer_gen.metrics import transferability


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def test_the_overlap_of_vocabularies_is_that_of_the_text():
  text = "a a a b c"
  tokens = ["a", "b", "c", "d"]

  found = transferability.vocabulary_overlap(
      np.array([token in {"a", "c", "d"} for token in tokens]),
      np.array([text.split().count(token) for token in tokens]))

  assert found == pytest.approx(sum(word != "b" for word in text.split()) / 5)


def test_gradients_are_aligned_by_the_cosine_of_all_that_both_have():
  first = {"a": _normal(2, 3), "b": _normal(4, seed=1), "only": _normal(5)}
  second = {"a": _normal(2, 3, seed=2), "b": _normal(4, seed=3), "other": _normal(1)}

  found = transferability.gradient_alignment(first, second)

  flat = [np.concatenate([one["a"].ravel(), one["b"]]) for one in (first, second)]
  assert found == pytest.approx(np.corrcoef(  # Of values without a mean: a cosine.
      *[np.concatenate([one, -one]) for one in flat])[0, 1])
  assert transferability.gradient_alignment(first, first) == pytest.approx(1)
  assert transferability.gradient_alignment({"a": np.zeros(2)}, {"a": np.ones(2)}) == 0


def test_cka_is_the_quotient_of_gram_matrices():
  first, second = _normal(30, 5) + 3, _normal(30, 4, seed=1)

  centre = np.eye(30) - 1 / 30
  grams = [centre @ one @ one.T @ centre for one in (first, second)]
  wanted = np.sum(grams[0] * grams[1]) / np.prod([
      np.sqrt(np.sum(one * one)) for one in grams])
  assert transferability.cka(first, second) == pytest.approx(wanted)


def test_cka_does_not_see_rotations_and_one_scale():
  features = _normal(30, 5)
  rotation = np.linalg.qr(_normal(5, 5, seed=1))[0]

  assert transferability.cka(features, 3 * features @ rotation + 1) == pytest.approx(1)
  assert transferability.cka(features, _normal(30, 5, seed=2)) < 0.6


def test_logme_is_the_maximum_of_the_evidence():
  features = _normal(40, 6)
  labels = np.argmax(features[:, :3] + 0.7 * _normal(40, 3, seed=1), 1)

  def best(target):
    """Maximizes the density of the targets, whose covariance is written out."""
    density = lambda logs: -stats.multivariate_normal(
        cov=np.exp(logs[0]) * features @ features.T + np.exp(logs[1]) * np.eye(40)
    ).logpdf(target)
    return -min(optimize.minimize(density, start, method="Nelder-Mead", options={
        "xatol": 1e-6, "fatol": 1e-9}).fun for start in ((-3, -2), (-6, -1)))

  wanted = np.mean([best((labels == label).astype(float)) / 40 for label in range(3)])
  assert transferability.logme(features, labels) == pytest.approx(wanted, abs=1e-6)


def test_logme_prefers_features_that_tell_the_classes():
  labels = np.arange(60) % 3
  noise = _normal(60, 5)

  separated = transferability.logme(noise + 2 * np.eye(5)[labels], labels)
  mixed, constant = (transferability.logme(noise, classes)
                      for classes in (labels, np.zeros(60, int)))

  assert separated > mixed + 0.1 and np.isfinite([mixed, constant]).all()


def test_the_interval_of_a_rank_correlation_holds_it_as_often_as_it_says():
  generator = np.random.default_rng(0)
  # Spearman's correlation of normal variables with Pearson's 0.7.
  true = 6 / np.pi * np.arcsin(0.7 / 2)
  held = []
  for _ in range(300):
    first = generator.normal(size=15)
    second = 0.7 * first + (1 - 0.49) ** 0.5 * generator.normal(size=15)
    found = transferability.rank_correlation(first, second)
    held.append(found["low"] <= true <= found["high"])

  assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("sign", [1, -1])
def test_pairs_that_a_measure_ranks_perfectly_have_an_interval_of_some_width(sign):
  found = {count: transferability.rank_correlation(
      [*range(count)], [sign * i ** 3 for i in range(count)]) for count in (4, 5, 30)}

  for count, one in found.items():
    assert one["rho"] == pytest.approx(sign) and one["pairs"] == count
    near, far = (one["high"], one["low"])[::sign]
    assert near == pytest.approx(sign)
    # By chance, 4 pairs are in one of both perfect orders once in 12 times, 5 once in
    # 60: only the second excludes that there is nothing.
    assert (sign * far > 0) == (count > 4)
  assert sign * found[30][("low", "high")[sign < 0]] > 0.99


def test_the_interval_of_few_pairs_holds_the_correlation_often_enough():
  generator = np.random.default_rng(1)
  true = 6 / np.pi * np.arcsin(0.9 / 2)
  held = []
  for _ in range(300):
    first = generator.normal(size=5)
    second = 0.9 * first + (1 - 0.81) ** 0.5 * generator.normal(size=5)
    found = transferability.rank_correlation(first, second)
    held.append(found["low"] <= true <= found["high"])

  assert np.mean(held) >= 0.93  # Of 120 orders: not 95% exactly.
