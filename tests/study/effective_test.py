"""Tests for the effective data of runs of a study."""

import dataclasses

import pytest

from transfer_gen import config
from transfer_gen.study import effective

_AMOUNTS = {"s1": 1000, "s10": 10_000, "s100": 100_000}
_LOSSES = {"s1": 4.0, "s10": 3.0, "s100": 2.0, "t": 2.5, "other": 9.0}


def _study(**runs):
  base = config.Run(data=config.Data(fraction=0.1), seed=3)
  at = lambda fraction, steps: dataclasses.replace(
      base, data=config.Data(fraction=fraction), train=config.Train(steps=steps))
  runs = {"s1": at(0.01, 10), "s10": at(0.1, 20), "s100": at(1.0, 30), "t": base,
          **runs}
  return config.Study(
      question="?", runs=runs,
      pairs=tuple(("t", name) for name in runs if name != "t"))


def _results(**changes):
  return {name: [{
      "loss": loss * 3, "bits_per_byte": loss + 0.01 * seed, "train_data": {
          "bytes": _AMOUNTS.get(name, 10_000), "tokens": 7}} for seed in (-1, 1)]
      for name, loss in {**_LOSSES, **changes}.items()}


def test_controls_of_several_amounts_are_one_curve():
  found = effective.of_pair(("t", "s10"), _study(), _results())

  assert found["amount"] == pytest.approx(10 ** 4.5)
  assert found["transferred"] == pytest.approx(10 ** 4.5 - 10_000)
  assert found["controls"] == ["s1", "s10", "s100"] and found["unit"] == "bytes"
  assert found["low"] < found["amount"] < found["high"]


def test_a_control_that_differs_otherwise_is_no_part_of_the_curve():
  other = config.Run(data=config.Data(fraction=0.5, packing="joined"))

  study = _study(other=other)

  assert effective.of_pair(("t", "other"), study, _results()) == {}
  assert "other" not in effective.of_pair(("t", "s1"), study, _results())["controls"]


def test_of_two_controls_with_one_amount_the_better_one_counts():
  longer = config.Run(data=config.Data(fraction=0.1), train=config.Train(steps=99))

  found = effective.of_pair(
      ("t", "s10"), _study(other=longer), _results(other=2.5))

  assert found["controls"] == ["s1", "other", "s100"]
  assert found["amount"] == pytest.approx(10_000)
