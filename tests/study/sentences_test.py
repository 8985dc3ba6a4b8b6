"""Tests for what is said of a pair, by the signs of what was found."""

import re

import pytest

from transfer_gen.study import sentences

PAIR = {
    "treated": "a", "control": "b", "gain": 0.2, "low": 0.1, "high": 0.3,
    "documents": 9, "seeds": 2, "wins": 0.7, "seeds_ahead": 2, "same_tokens": True,
    "control_still_improving": 0, "least_fall": "0.01 nats per step",
    "reached": [20, 40], "reached_after": [10, 30], "bits_per_byte": {},
    "gap": None, "cost": {}, "metrics": {}, "alarm": {"raised": False},
    "effective_data": {}, "payback": {}}


def _text(pairs=1, **changes):
  pair = {**PAIR, **changes}
  runs = {"b": [{"step": 100}, {"step": 200}]}
  return "\n".join(sentences.verdicts({"comparisons": [pair] * pairs, "runs": runs}))


@pytest.mark.parametrize("changes, verdict", [
    ({}, "better"), ({"low": -0.1}, "no clear difference"),
    ({"low": 0.0}, "no clear difference"),
    ({"gain": -0.2, "low": -0.3, "high": 0.0}, "no clear difference"),
    ({"gain": -0.2, "low": -0.3, "high": -0.1}, "worse"),
    ({"low": 0.2}, "better"), ({"low": 0.2, "high": 0.2}, "no clear difference"),
    ({"documents": 1, "low": 0.2, "high": 0.2}, "no clear difference")])
def test_only_an_interval_without_zero_is_called_a_difference(changes, verdict):
  text = _text(**changes)

  assert re.search(r"\), ([a-z ]+); ahead", text)[1] == verdict
  assert ("so no interval" in text) == (changes.get("documents") == 1)


@pytest.mark.parametrize("low, high, better, verdict", [
    (0.5, 2.0, True, "better"), (-2.0, -0.5, False, "worse"),
    (-0.5, 2.0, True, "no clear difference"),
    (-0.75, 0.0, False, "no clear difference"),
    (1.0, 1.0, True, "no clear difference")])  # One document has no interval.
def test_of_a_metric_only_an_interval_without_zero_is_called_a_difference(
    low, high, better, verdict):
  one = {"difference": (low + high) / 2, "low": low, "high": high, "better": better,
         "p": 0.25, "seeds_ahead": 1, "seeds": 2}

  line = _text(metrics={"chrf": one}).splitlines()[1]

  sign = lambda value: f"{'+' if value > 0 else ''}{value:.2f}"
  assert line == (
      f"a against b, chrf: {sign(one['difference'])} (95% interval {sign(low)} to"
      f" {sign(high)}; p = 0.2500), {verdict}; ahead on 1 of 2 seeds.")


def test_where_tokens_differ_the_gain_is_one_in_bits_per_byte():
  bits = {"gain": -0.02, "low": -0.03, "high": -0.01, "documents": 9, "seeds": 2,
          "seeds_ahead": 0}

  text = _text(same_tokens=False, bits_per_byte=bits)

  assert "-0.0200 bits per byte (95% interval -0.0300 to -0.0100 over 9 test" in text
  assert "), worse; ahead on 0 of 2 seeds" in text and "nats" not in text


@pytest.mark.parametrize("gain, sentence", [
    (0.2, "With more steps the gain may shrink."),
    (-0.2, "With more steps it may lead by more.")])
def test_a_control_that_still_improves_is_reported_once_by_the_sign_of_the_gain(
    gain, sentence):
  text = _text(2, control_still_improving=1, gain=gain)

  assert text.count("b was still improving") == 1 and sentence in text
  assert "fell by more than 0.01 nats per step over the last fifth of 1 of 2" in text


@pytest.mark.parametrize("reached, after, sentence", [
    ([20, 40], [10, 30],
     "on 2 of 2 seeds, after 30 steps on average; b took 150. It may have been up to 10"
     " steps sooner"),
    ([None, 40], [None, 0],
     "on 1 of 2 seeds, at its first validation, after 40 steps on average; b took 150."
     " It may have been up to 40 steps sooner"),
    ([1, 1], [0, 0], "after 1 step on average"),
    ([None, None], [None, None], "a never reached b's best validation loss"),
])
def test_steps_to_the_control_are_no_finer_than_validations(reached, after, sentence):
  assert sentence in _text(reached=reached, reached_after=after)


def test_what_the_control_s_best_cost_is_said_of_both_sides():
  cost = {"tokens": {"treated": 168000.0, "control": 560000.4},
          "gflops": {"treated": 119.6, "control": 4.04}}

  both, tokens = _text(cost=cost), _text(cost={"tokens": cost["tokens"]})

  assert ("between. a took 168,000 tokens and 120 GFLOPs to there; b took 560,000"
          " tokens and 4.04 GFLOPs.") in both
  assert "a took 168,000 tokens to there; b took 560,000 tokens." in tokens
  assert "to there" not in _text()


def _rates(*failed, **tried):
  chosen = {name: lrs[0] for name, lrs in tried.items()}
  return sentences.rates({
      "summary": {"lrs": chosen},
      "trainings": [{"run": name, "lr": lr, "role": "tried" if i else "compared"}
                    for name, lrs in tried.items() for i, lr in enumerate(lrs)],
      "failures": [{"name": "a", "lr": lr} for lr in failed]})


def test_a_rate_at_the_edge_of_what_was_tried_is_named_and_one_inside_is_not():
  begin = "Learning rate chosen by validation, mean over seeds: "

  assert _rates(a=[0.01, 0.003, 0.03]) == [f"{begin}a 0.01 of 0.003, 0.01, 0.03."]
  assert _rates(a=[0.03, 0.003, 0.01], b=[3e-4, 1e-3]) == [
      f"{begin}a 0.03 of 0.003, 0.01, 0.03; b 0.0003 of 0.0003, 0.001.",
      "The rates of a, b lie at the edge of what was tried, and better ones may lie"
      " beyond."]
  # Beyond a rate that failed there is nothing to try.
  assert _rates(0.1, a=[0.03, 0.01]) == [f"{begin}a 0.03 of 0.01, 0.03, 0.1 (failed)."]


def test_single_rates_were_not_chosen():
  assert _rates(a=[0.01], b=[0.03]) == []
  # Each seed of a search has a rate of its own.
  assert sentences.rates({"summary": {"lrs": {"a": 0.1}}, "trainings": [
      {"run": "a", "lr": lr, "role": "compared"} for lr in (0.1, 0.2)]}) == []


@pytest.mark.parametrize("gap, word", [(0.5, "lower"), (-0.5, "higher")])
def test_the_area_between_the_curves_is_named_by_its_sign(gap, word):
  assert f"validation loss was {word} by 0.5000 nats per token" in _text(gap=gap)


def test_an_alarm_says_whether_the_interval_agrees():
  raised = {"raised": True, "p": 0.031}

  clear = _text(gain=-0.2, low=-0.3, high=-0.1, alarm=raised)
  unclear = _text(2, gain=-0.2, low=-0.3, high=0.01, alarm=raised)

  assert clear.startswith("Negative transfer: a is worse than b. If")
  assert unclear.startswith("Negative transfer: a may be worse than b. If")
  assert "of 0.031.\n" in clear and "of 0.031, for the worst of 2 pairs.\n" in unclear


def _effective(**changes):
  return {"method": "power law", "amounts": 5, "amount": 3e4, "low": 2e4, "high": 5e4,
          "bound": "", "smallest": 1e3, "largest": 1e5, "unit": "bytes", "own": 1e4,
          "transferred": 2e4, "controls": ["b0", "b"],
          "interpolated": 28_000.4, **changes}


@pytest.mark.parametrize("changes, sentence", [
    ({}, "Effective data: a, trained on 10,000 bytes of target text, has the loss that"
     " training as b needs 30,000 bytes for (95% interval 20,000 to 50,000; by a power"
     " law through 5 amounts; interpolated, 28,000): 20,000 bytes transferred."),
    ({"interpolated": None}, "law through 5 amounts; interpolated, outside of them):"),
    ({"amount": 4e3, "transferred": -6e3}, "): 6,000 bytes lost by the transfer."),
    ({"controls": ["b0", "b_x4"]}, "has the loss that training as the controls with the"
     " most steps (b0, b_x4) need 30,000 bytes for (95% interval 20,000 to 50,000; by a"
     " power law through 5 amounts; interpolated, 28,000): 20,000 bytes more."),
    ({"controls": ["b0", "b_x4"], "amount": 4e3, "transferred": -6e3},
     "6,000 bytes fewer."),
    ({"method": "interpolation", "low": None, "high": None},
     "(no interval from single seeds; interpolated between 5 amounts)"),
    ({"high": None}, "interval from 20,000 on, its end lies beyond what was measured"),
    ({"amount": None, "transferred": None, "bound": ">", "low": 1e5, "high": None},
     "needs more than the largest amount that was tried, > 100,000 bytes for (95%"
     " interval from 100,000 on"),
    ({"amount": None, "transferred": None, "bound": "<", "low": None, "high": 1e3},
     "needs less than the smallest that was tried, < 1,000 bytes for (95% interval up"
     " to 1,000"),
])
def test_effective_data_is_a_number_or_a_bound(changes, sentence):
  assert sentence in _text(effective_data=_effective(**changes))


def test_effective_data_is_reported_once_for_the_controls_of_one_curve():
  text = _text(2, effective_data=_effective())

  assert text.count("a against b") == 2 and text.count("Effective data") == 1


def test_sources_pay_from_a_number_of_targets_or_never():
  payback = {"tokens": {"over_control": 16.94, "pays_from": 18},
             "gflops": {"over_control": 1.5, "pays_from": None}}

  text = _text(payback=payback)

  assert ("With its sources, a costs 16.9 times the tokens of b up to b's best"
          " validation loss; shared by 18 targets or more, they pay.") in text
  assert "a costs 1.5 times the GFLOPs of b" in text and "never pay" in text


def test_a_lead_that_more_steps_bring_is_no_harm_of_the_source():
  pair = {"treated": "moved", "control": "scratch_x8"}
  facts = lambda **gain: {
      "comparisons": [{**PAIR, **pair, **gain}], "runs": {"scratch_x8": [{"step": 9}]},
      "longer": {"scratch_x8": {"of": "scratch", "times": 8}}}

  ahead = sentences.verdicts(facts(gain=-0.2, low=-0.3, high=-0.1))
  behind = sentences.verdicts(facts())

  said = ("So many steps bring more than the source brought to moved, which had those"
          " of scratch; with as many as scratch_x8, it was not tried.")
  assert said in ahead and said not in behind


def test_the_answer_has_the_gain_over_a_control_with_the_steps_that_it_needs():
  pair = {"treated": "moved", "control": "scratch"}
  facts = {"comparisons": [
      {**PAIR, **pair}, {**PAIR, **pair, "control": "other_x2"},
      {**PAIR, **pair, "control": "scratch_x2", "gain": 0.01, "low": -0.1, "high": 0.1},
  ], "longer": {"scratch_x2": {"of": "scratch", "times": 2},
                "other_x2": {"of": "other", "times": 2}}}

  first, what, second = sentences.answer(facts)

  assert first.startswith("moved against scratch: ") and "better" in first
  assert what.startswith("scratch_x2 is scratch with 2 times the steps")
  assert second.startswith("moved against scratch_x2: +0.0100")
  assert sentences.answer({**facts, "longer": {}}) == [first]


def test_the_unit_of_a_gain_is_that_of_tokens_bytes_or_points_of_drawings():
  drawn = {key: value for key, value in PAIR.items() if key != "bits_per_byte"}

  assert sentences.unit(PAIR) == "nats per token"
  assert sentences.unit({**PAIR, "same_tokens": False}) == "bits per byte"
  assert sentences.unit(drawn) == "nats per step"
