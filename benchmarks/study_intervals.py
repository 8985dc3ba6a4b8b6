"""Counts how often the intervals of a study hold the truth, where the truth is known.

See `benchmarks.study` for what is counted.
"""

from typing import Any

import numpy as np

from transfer_gen.metrics import effective_data
from transfer_gen.study import comparison
from transfer_gen.train import score

_SEEDS = (3, 4, 5)
_DOCUMENTS = 150
# Variance of the mean gain that is due to seeds, over that which is due to documents.
_RATIOS = (0.2, 0.5, 1.0, 2.0, 5.0)
# Deviation of the gain by document that all seeds share, over that of each seed alone.
# At 0, documents are nested within seeds.
_SHARED = (0.0, 0.5, 1.0)
_AMOUNTS = np.geomspace(1e4, 1e6, 6)  # Of the control, in bytes.


def effective(trials: int, generator: np.random.Generator) -> dict[str, float]:
  """Measures effective data on curves of three seeds, with noise of about 0.5%."""
  errors, others, held = [], [], []
  for _ in range(trials):
    exponent, floor = generator.uniform(0.2, 0.4), generator.uniform(0.5, 2.0)
    law = lambda amount, exponent=exponent, floor=floor: (
        2.5 * (amount / _AMOUNTS[0]) ** -exponent + floor)
    # Far enough from both ends that noise seldom moves it out of what was measured.
    truth = float(np.exp(generator.uniform(*np.log(_AMOUNTS[[1, -2]]))))
    noisy = lambda amount, law=law: law(amount) + generator.normal(0, 0.015, 3)
    control, treated = [(amount, noisy(amount)) for amount in _AMOUNTS], noisy(truth)
    found = effective_data.effective(control, treated)
    # A bound where the truth was measured is wrong by all of it.
    errors.append(abs((found["amount"] or 0) / truth - 1))
    others.append(abs(effective_data.interpolated(
        _AMOUNTS, [losses for _, losses in control], treated.mean()) / truth - 1))
    held.append((found["low"] or 0) <= truth <= (found["high"] or np.inf))
  return {"effective_data_error": float(np.median(errors)),
          "interpolation_error": float(np.median(others)),
          "coverage": float(np.mean(held))}


def gains(trials: int, generator: np.random.Generator) -> dict[str, float]:
  """Compares runs whose gain is known, as a study does."""
  held = {}
  for seeds in _SEEDS:
    truths = generator.normal(0, 0.3, trials)
    found = [_studied(truth, 1, seeds, generator)[0] for truth in truths]
    held[seeds] = np.mean([one["low"] <= truth <= one["high"]
                           for one, truth in zip(found, truths)])
  return {"gain_coverage": float(np.mean([*held.values()])),
          **{f"gain_coverage_of_{seeds}": float(share)
             for seeds, share in held.items()}}


def no_effect(trials: int, generator: np.random.Generator) -> dict[str, float]:
  """Counts what studies say of treatments that have no effect."""
  seeds = lambda trial: _SEEDS[trial % len(_SEEDS)]
  single, triple = ([_studied(0.0, pairs, seeds(trial), generator)
                     for trial in range(trials)] for pairs in (1, 3))
  alarmed = lambda studies: float(np.mean([
      any(one["alarm"]["raised"] for one in study) for study in studies]))
  return {"better": float(np.mean([one["low"] > 0 for [one] in single])),
          "alarms": alarmed(single), "alarms_of_three": alarmed(triple)}


def _studied(
    gain: float, pairs: int, seeds: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
  """Simulates a study of pairs with one control, and compares them.

  The gain varies by seed, by document, and by both. Deviations of documents are skewed,
  and their lengths differ widely, as those of texts do.

  Args:
    gain: True gain of every treatment, in nats per token.
    pairs: Number of pairs.
    seeds: Number of seeds.
    generator: Draws the noise.
  """
  tokens = 5 + generator.geometric(1 / 30, _DOCUMENTS)
  skewed = lambda *shape: generator.exponential(size=shape) - 1
  shared = generator.choice(_SHARED)
  of_documents = ((shared ** 2 + 1 / seeds) / _DOCUMENTS) ** 0.5
  spread = of_documents * (generator.choice(_RATIOS) * seeds) ** 0.5
  hard = 4 + skewed(_DOCUMENTS)
  control = [hard + 0.2 * skewed(_DOCUMENTS) for _ in range(seeds)]
  results = {"control": [_result(losses, tokens) for losses in control]}
  for pair in range(pairs):
    gains = gain + shared * skewed(_DOCUMENTS)
    results[f"treated {pair}"] = [
        _result(losses - gains - spread * generator.normal() - skewed(_DOCUMENTS),
                tokens) for losses in control]
  found = [comparison.compare((f"treated {pair}", "control"), results)
           for pair in range(pairs)]
  comparison.raise_alarms(found)
  return found


def _result(losses: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
  """What a study knows of a training; only its test losses matter here."""
  scores = score.Scores(nats=losses * tokens, tokens=tokens, text_bytes=4 * tokens)
  return {"scores": scores, "still_improving": False, "least_fall": "1%",
          "validations": [{"step": 1, "loss": 1.0, "tokens": 1}]}


def run(trials: int) -> dict[str, float]:
  """Runs all simulations."""
  generator = np.random.default_rng(0)
  found = {}
  for part in (effective, gains, no_effect):
    counted = part(trials, generator)
    print(f"{part.__name__}: {counted}", flush=True)
    found |= counted
  return found

