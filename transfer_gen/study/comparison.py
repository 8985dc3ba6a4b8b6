"""Compares the runs of a pair: on the test split, along their curves, and by cost."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen.metrics import learning_curves
from transfer_gen.metrics import likelihood
from transfer_gen.metrics import nested
from transfer_gen.study import task_metrics
from transfer_gen.train import score as score_lib

ALARM = 0.05  # An adjusted p-value below it raises the alarm for negative transfer.
_COSTS = ("tokens", "gflops")


def compare(
    pair: tuple[str, str], results: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
  """Compares the first run of a pair with the second, by seed and by document.

  Args:
    pair: Names of the treated run and of its control.
    results: What `outcome.test` returned for each seed, by the name of the run.

  Returns:
    `gain` (how much lower the treated loss is, in nats per token), `low`, `high`, `p`,
    `p_worse`, `seeds_ahead`, `documents` and `seeds`, see `nested.compare`; the same as
    `bits_per_byte`, for texts; `same_tokens`: whether both have the same tokens, and so
    nats per token compare; `wins`: share of the documents on which the treated loss is
    lower, summed over seeds; `control_still_improving`: number of seeds whose
    validation loss still fell by more than `least_fall`; for each seed `reached`, the
    validated step at which the treated run reached the control's best validation, or
    None, and `reached_after`, the validation before; `gap`, see
    `learning_curves.gap`; `cost`: see below; and `metrics`, by name.

    `cost` has for each known unit of `tokens` and `gflops` what the treated run and the
    control took up to the control's best validation, mean over seeds. It is empty if
    some seed did not reach it.

  Raises:
    errors.UserError: If the runs were tested on other documents.
  """
  treated, control = (results[name] for name in pair)
  if len({len(run["scores"].tokens) for run in (*treated, *control)}) > 1:
    raise errors.UserError(
        f"pairs: {' and '.join(pair)} have other numbers of test documents. Give both"
        " the same test data.")
  scores = [[run["scores"] for run in runs] for runs in (treated, control)]
  # A document that was too long for a row of one of them has no loss to compare.
  used = np.all([one.tokens > 0 for runs in scores for one in runs], axis=0)
  same = all(np.array_equal(first.tokens[used], second.tokens[used])
             for first, second in zip(*scores))
  curve = "loss" if same or not scores[0][0].of_text else "bits_per_byte"
  losses, bits = (
      [[measure(one, used) for one in runs] for runs in scores]
      for measure in (_loss, _bits))
  # As sums over seeds: a single seed of a short document may win by chance.
  first, second = (np.sum([one.nats for one in runs], 0)[used] for runs in scores)
  return {
      "treated": pair[0], "control": pair[1], **_gain(*losses),
      **({"bits_per_byte": _gain(*bits)} if scores[0][0].of_text else {}),
      "same_tokens": curve == "loss", "wins": float((first < second).mean()),
      "control_still_improving": sum(run["still_improving"] for run in control),
      "least_fall": control[0]["least_fall"],
      **_along(treated, control, curve),
      "metrics": task_metrics.compare(treated, control),
  }


def raise_alarms(
    comparisons: Sequence[dict[str, Any]], longer: Collection[str] = ()) -> None:
  """Adds to each comparison whether its treated run may be worse than its control.

  `alarm` has `p`, the one-sided p-value of the loss, adjusted for the number of pairs
  (`nested.holm`), and `raised`, whether it is below `ALARM`: if no treatment has any
  effect, a study raises an alarm with at most that probability.

  Args:
    comparisons: What `compare` returned for each pair.
    longer: Controls with more steps than the runs that they are compared with. A gain
      over them speaks of the steps, too: they raise no alarm, and have no `p`.
  """
  equal = [one for one in comparisons if one["control"] not in longer]
  for one in comparisons:
    one["alarm"] = {"p": None, "raised": False}
  adjusted = nested.holm([main(one)["p_worse"] for one in equal])
  for one, p in zip(equal, adjusted):
    one["alarm"] = {"p": p, "raised": p < ALARM}


def main(comparison: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the gain that decides: in bits per byte where tokens are not the same."""
  return comparison if comparison["same_tokens"] else comparison["bits_per_byte"]


def summary(
    results: Mapping[str, Sequence[dict[str, Any]]], first: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what a study's summary says of scores.

  Args:
    results: What `outcome.test` returned for each seed, by the name of the run.
    first: What `compare` returned for the first pair.
  """
  bits = first.get("bits_per_byte")
  return {
      **{f"{name}_test_loss": float(np.mean([run["loss"] for run in runs]))
         for name, runs in results.items()},
      "gain_nats_per_token": first["gain"], "gain_low": first["low"],
      "gain_high": first["high"],
      **({"gain_bits_per_byte": {"difference": bits["gain"], "low": bits["low"],
                                 "high": bits["high"]}} if bits else {}),
      "seeds_ahead": first["seeds_ahead"], "reached": first["reached"],
      "reached_after": first["reached_after"], "gap": first["gap"],
      **task_metrics.summary(results, first)}


def _loss(scores: score_lib.Scores, used: np.ndarray) -> likelihood.Measured:
  return likelihood.loss(scores.nats[used], scores.tokens[used])


def _bits(scores: score_lib.Scores, used: np.ndarray) -> likelihood.Measured:
  return likelihood.bits_per_byte(
      scores.nats[used], scores.tokens[used], scores.text_bytes[used])


def _gain(
    treated: Sequence[likelihood.Measured], control: Sequence[likelihood.Measured]
) -> dict[str, Any]:
  found = nested.compare(treated, control)
  # A gain is a lower loss. Subtracted from 0, so that no difference is not -0.
  return {"gain": 0 - found["difference"], "low": 0 - found["high"],
          "high": 0 - found["low"],
          **{key: found[key] for key in (
              "p", "p_worse", "documents", "seeds", "seeds_ahead")}}


def _along(
    treated: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], unit: str
) -> dict[str, Any]:
  """Compares the validations of two runs, seed by seed."""
  curves = [[[(line["step"], line[unit]) for line in run["validations"]]
             for run in runs] for runs in (treated, control)]
  best = [min(curve, key=lambda point: point[1]) for curve in curves[1]]
  reached = [learning_curves.reached(curve, goal)
             for curve, (_, goal) in zip(curves[0], best)]
  gaps = [learning_curves.gap(first, second) for first, second in zip(*curves)]
  known = [gap for gap in gaps if gap is not None]
  return {
      "reached": [found and found[1] for found in reached],
      "reached_after": [found and found[0] for found in reached],
      "gap": float(np.mean(known)) if known else None,
      "cost": _cost(treated, control, reached, [step for step, _ in best])}


def _cost(treated, control, reached, best):
  """What both took up to the control's best validation, in each known unit."""
  if None in reached:
    return {}
  known = [unit for unit in _COSTS if all(
      unit in line for run in (*treated, *control) for line in run["validations"])]
  at = lambda run, step, unit: next(
      line[unit] for line in run["validations"] if line["step"] == step)
  mean = lambda runs, steps, unit: float(np.mean([
      at(run, step, unit) for run, step in zip(runs, steps)]))
  return {unit: {"treated": mean(treated, [step for _, step in reached], unit),
                 "control": mean(control, best, unit)} for unit in known}
