"""Tests for which validation counts as the best so far."""

import dataclasses
import json
import math

from transfer_gen.run import best


def _judged(metric, values):
  found = best.begin(metric)
  for step, value in enumerate(values):
    found.judge(step, {"loss": 1.0 - step, metric: value})
  return found


def test_the_direction_is_that_of_the_metric():
  assert _judged("bleu", [3.0, 9.0, 5.0]).step == 1
  assert _judged("ter", [90.0, 70.0, 80.0]).step == 1
  assert _judged("loss", [3.0, 1.0, 2.0]).step == 1


def test_the_loss_is_that_of_the_best_step_and_not_the_lowest():
  found = _judged("bleu", [3.0, 9.0, 5.0])

  assert (found.value, found.loss, found.stale) == (9.0, 0.0, 1)


def test_a_nan_is_no_improvement():
  assert _judged("bleu", [math.nan, 1.0, math.nan]).step == 1
  assert _judged("loss", [math.nan]).step == -1


def test_facts_survive_a_checkpoint_and_old_facts_are_of_losses():
  found = _judged("chrf", [1.0])

  assert best.from_facts(json.loads(json.dumps(dataclasses.asdict(found)))) == found
  assert best.from_facts({"loss": 2.5, "step": 7, "stale": 1}) == best.Best(
      metric="loss", value=2.5, loss=2.5, step=7, stale=1)
