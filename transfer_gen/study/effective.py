"""Effective data of the treated runs of a study, from its controls' amounts of data."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.metrics import effective_data

Results = Mapping[str, Sequence[Mapping[str, Any]]]


def of_pair(
    pair: tuple[str, str], study: config_lib.Study, results: Results
) -> dict[str, Any]:
  """Returns how much target data the control needs for the treated run's test loss.

  The control's curve is made of all controls of the study that differ from it in
  nothing but the fraction of the training data and how long and at which rates they
  train. Where two of them have the same amount, the better one counts.

  Args:
    pair: Names of the treated run and of its control.
    study: The study.
    results: What `outcome.test` returned for each seed, by the name of the run.

  Returns:
    What `effective_data.effective` returns, for losses in bits per byte, or in nats per
    token where there is no text; `unit` of amounts: `bytes` or `tokens` of the training
    targets; `own`: the amount that the treated run was trained on; `transferred`:
    `amount` less `own`, or None; `controls`: names of the runs of the curve. Empty if
    they have only one amount.
  """
  treated = results[pair[0]]
  names = [name for name in dict.fromkeys(control for _, control in study.pairs)
           if _alike(study.runs[name]) == _alike(study.runs[pair[1]])]
  of_text = all("bits_per_byte" in run for name in names for run in results[name])
  metric, unit = ("bits_per_byte", "bytes") if of_text else ("loss", "tokens")
  amount = lambda runs: runs[0]["train_data"][unit]
  curve: dict[int, str] = {}
  for name in names:
    rival = curve.setdefault(amount(results[name]), name)
    if _mean(results[name], metric) < _mean(results[rival], metric):
      curve[amount(results[name])] = name
  if len(curve) < 2:
    return {}
  losses = lambda runs: [run[metric] for run in runs]
  found = effective_data.effective(
      [(size, losses(results[curve[size]])) for size in sorted(curve)], losses(treated))
  own = amount(treated)
  return {**found, "unit": unit, "own": own, "transferred": (
      None if found["amount"] is None else found["amount"] - own),
          "controls": [curve[size] for size in sorted(curve)]}


def _mean(runs: Sequence[Mapping[str, Any]], metric: str) -> float:
  return float(np.mean([run[metric] for run in runs]))


def _alike(run: config_lib.Run) -> config_lib.Run:
  """The run without what may differ along a curve: amount of data, budget, rates."""
  return dataclasses.replace(
      run, data=dataclasses.replace(run.data, fraction=1.0), seed=0,
      optim=config_lib.Optim(), train=config_lib.Train())
