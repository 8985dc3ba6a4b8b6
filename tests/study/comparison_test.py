"""Tests for the comparison of two runs: test split, curves and cost."""

import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.study import comparison
from transfer_gen.train import score


def _run(nats, curve=((10, 3.0),), tokens=10, bytes_each=40):
  nats = np.asarray(nats, float)
  count = len(nats)
  return {
      "scores": score.Scores(
          nats=nats, tokens=np.broadcast_to(tokens, count),
          text_bytes=np.full(count, bytes_each)),
      "loss": nats.sum() / (10 * count), "measured": {},
      "still_improving": False, "least_fall": "1%",
      "validations": [
          {"step": step, "loss": loss, "bits_per_byte": loss / 4, "tokens": 100 * step}
          for step, loss in curve]}


def _compare(treated, control):
  return comparison.compare(("t", "c"), {"t": treated, "c": control})


def _gammas(seed, count=200):
  return np.random.default_rng(seed).gamma(5.0, 10.0, count)


def test_a_constant_gain_is_distinguished_from_noise():
  control = _gammas(0)
  noise = control + np.random.default_rng(1).normal(0.0, 5.0, 200)

  better, same = (_compare([_run(nats)], [_run(control)])
                  for nats in (control - 1.0, noise))

  assert better["gain"] == pytest.approx(0.1)
  # All documents gain the same, and so nothing shows how much others would gain.
  assert better["low"] == pytest.approx(0.1) and better["wins"] == 1.0
  assert same["low"] < 0 < same["high"] and 0.3 < same["wins"] < 0.7


def test_the_interval_widens_with_the_spread_of_seeds():
  control = [_gammas(seed) for seed in range(3)]
  gains = lambda spread: [
      _run(nats - gain + np.random.default_rng(7).normal(0, 1, 200))
      for nats, gain in zip(control, (5 - spread, 5, 5 + spread))]

  alike, apart = (_compare(gains(spread), [_run(nats) for nats in control])
                  for spread in (0, 4))

  assert alike["gain"] == pytest.approx(apart["gain"])
  assert alike["low"] > 0 > apart["low"] and apart["seeds_ahead"] == 3
  # Student's t of two degrees of freedom: 4.30 standard errors of three gains.
  assert apart["high"] - apart["gain"] == pytest.approx(
      4.303 * 0.4 / 3 ** 0.5, rel=0.02)


def test_a_document_that_one_run_dropped_is_left_out_of_all():
  control = _run([10.0, 20.0, 40.0], tokens=[10, 10, 0])

  found = _compare([_run([5.0, 15.0, 1.0])], [control])

  assert found["documents"] == 2 and found["gain"] == pytest.approx(0.5)


def test_other_tokens_are_compared_in_bits_per_byte():
  curves = [(10, 3.0), (20, 2.0)], [(10, 2.5), (20, 2.2)]

  found = _compare([_run(_gammas(0) - 1, curves[0], tokens=8)],
                   [_run(_gammas(0), curves[1])])

  assert not found["same_tokens"]
  assert comparison.main(found)["gain"] == pytest.approx(1 / np.log(2) / 40)
  assert found["gap"] == pytest.approx((-0.5 + 0.2) / 2 / 4)
  assert _compare([_run(_gammas(0))], [_run(_gammas(1))])["same_tokens"]


def test_other_test_documents_are_refused():
  with pytest.raises(errors.UserError, match="t and c have other numbers of test doc"):
    _compare([_run([1.0, 2.0])], [_run([1.0])])


def test_the_cost_up_to_the_best_of_the_control_is_a_mean_over_seeds():
  treated = [[(10, 2.5), (20, 1.9), (30, 1.0)], [(10, 1.9), (20, 1.8), (30, 1.0)]]
  control = [(10, 3.0), (20, 2.5), (30, 2.0)]
  nats = _gammas(0, 5)

  found = _compare([_run(nats, curve) for curve in treated], [_run(nats, control)] * 2)
  never = _compare([_run(nats, control), _run(nats, [(30, 2.1)])],
                   [_run(nats, control)] * 2)

  assert found["reached"] == [20, 10] and found["reached_after"] == [10, 0]
  assert found["cost"] == {"tokens": {"treated": 1500.0, "control": 3000.0}}
  assert never["reached"] == [30, None] and never["cost"] == {}


def test_an_alarm_is_raised_for_harm_and_adjusted_for_the_number_of_pairs():
  control = [_run(_gammas(seed)) for seed in range(3)]
  shifted = lambda shift, noise: [
      _run(_gammas(seed) + shift + np.random.default_rng(seed).normal(0, noise, 200))
      for seed in range(3)]
  pairs = [_compare(shifted(shift, noise), control)
           for shift, noise in ((2.0, 1.0), (0.6, 5.0), (-2.0, 1.0))]

  comparison.raise_alarms(pairs)
  alone = [dict(pairs[1])]
  comparison.raise_alarms(alone)

  assert [one["alarm"]["raised"] for one in pairs] == [True, False, False]
  assert pairs[1]["alarm"]["p"] == pytest.approx(2 * alone[0]["alarm"]["p"])
  assert alone[0]["alarm"]["p"] == pytest.approx(pairs[1]["p"] / 2)


def test_a_control_with_more_steps_raises_no_alarm_and_counts_for_none():
  control = [_run(_gammas(seed)) for seed in range(3)]
  pairs = [_compare([_run(_gammas(seed) + shift) for seed in range(3)], control)
           for shift in (2.0, 1.0)]
  pairs[1]["control"] = "longer"

  comparison.raise_alarms(pairs, ["longer"])

  assert [one["alarm"]["raised"] for one in pairs] == [True, False]
  assert pairs[0]["alarm"]["p"] == pytest.approx(pairs[0]["p"] / 2)
  assert pairs[1]["p_worse"] < 0.001


def test_where_tokens_differ_an_alarm_looks_at_bits_per_byte():
  worse = [_run(_gammas(seed) * 1.5, tokens=20) for seed in range(3)]

  pair = _compare(worse, [_run(_gammas(seed)) for seed in range(3)])
  comparison.raise_alarms([pair])

  # More tokens for the same text, so the loss of each is lower.
  assert pair["gain"] > 0 and pair["alarm"]["raised"]
