"""Tests for what sources cost against what they save."""

import dataclasses

import pytest

from transfer_gen import config
from transfer_gen.study import payback

_COMPARISON = {"treated": "moved", "control": "scratch", "cost": {
    "tokens": {"treated": 30.0, "control": 240.0},
    "gflops": {"treated": 3.0, "control": 2.0}}}
_COSTS = {"first": {"train_tokens": 700}, "grand": {"train_tokens": 300}}


def _run(source="", path="", teacher=""):
  return config.Run(
      source=config.Source(run=source, path=path) if source or path else None,
      distill=config.Distill(teacher=config.Source(run=teacher)) if teacher else None)


def _of_pair(read=(("moved", 1.0), ("scratch", 0.0)), costs=None, **runs):
  study = config.Study(
      question="?", pairs=(("moved", "scratch"),),
      runs={"grand": _run(), "first": _run("grand"), "moved": _run("first"),
            "scratch": _run(), **runs})
  return payback.of_pair(_COMPARISON, study, dict(read), costs or _COSTS)


def test_all_runs_behind_a_treated_run_are_paid_for():
  found = _of_pair()

  assert found == {"tokens": {
      "source": 1000, "over_control": pytest.approx(1030 / 240), "pays_from": 5}}


def test_flops_are_known_with_accounts():
  costs = {name: {**cost, "accounts": {"gflops": 4.0, "search_gflops": 1.0}}
           for name, cost in _COSTS.items()}

  found = _of_pair(costs=costs)

  assert found["gflops"] == {
      "source": 10.0, "over_control": pytest.approx(6.5), "pays_from": None}


def test_what_the_control_reads_as_well_is_no_cost_of_the_treatment():
  both = {"read": (("moved", 1.0), ("scratch", 0.5)), "scratch": _run("grand")}

  assert _of_pair(**both)["tokens"]["source"] == 700
  assert _of_pair(**{**both, "scratch": _run("first")}) == {}
  # A control that takes only the tokenizer of a source is not moved by it.
  unread = _of_pair(scratch=_run("first"))
  assert unread["tokens"]["source"] == 1000


def test_a_source_from_elsewhere_has_no_known_cost():
  assert _of_pair(moved=_run(path="gpt2")) == {}
  assert _of_pair(first=_run(path="gpt2")) == {}
  assert _of_pair(read=(("moved", 1.0), ("scratch", 1.0)),
                  scratch=_run(path="gpt2")) == {}


def test_a_teacher_is_a_source():
  taught = dataclasses.replace(_run(teacher="first"), source=None)

  found = _of_pair(read=(("moved", 0.0), ("scratch", 0.0)), moved=taught)

  assert found["tokens"]["source"] == 1000
