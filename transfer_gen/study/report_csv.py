"""The trainings and the pairs of a study as tables for other programs."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.metrics import summary
from transfer_gen.study import comparison
from transfer_gen.study import sentences
from transfer_gen.study import task_metrics

TRAININGS, PAIRS = "results.csv", "pairs.csv"  # Beside the page.
# Titles, and the names that the numbers have in `results.json`.
_KNOWN = {"run": "run", "seed": "seed", "lr": "lr", "fraction": "fraction",
          "steps": "steps", "best_step": "step", "validation_loss": "validation_loss"}
_TESTED = {"test_loss": "loss", "bits_per_byte": "bits_per_byte"}
_COST = {"train_tokens": "train_tokens", "train_seconds": "train_seconds",
         "role": "role", "workdir": "workdir"}
# Titles of a table of pairs.
_NAMES = ["treated", "control", "unit", "seeds", "seeds_ahead", "documents", "verdict",
          "p", "alarm_p"]
_GAIN = ("gain", "low", "high")
_UNITS = ("nats_per_token", "bits_per_byte", "nats_per_step")
_METRIC = ("difference", "low", "high", "p")
_SPENT = ("tokens", "gflops")
_SIDES = ("treated", "control")
_EFFECTIVE = ("unit", "own", "amount", "low", "high", "bound", "interpolated")


def write(folder: epath.PathLike, facts: Mapping[str, Any]) -> None:
  """Writes results.csv and pairs.csv into a folder, each whole or not at all."""
  for name, rows in ((TRAININGS, trainings(facts)), (PAIRS, pairs(facts))):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    whole.write_text(epath.Path(folder) / name, buffer.getvalue())


def trainings(facts: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
  """Yields a header and a row for each training.

  Numbers are written in full. A cell is empty where there is no number: a training at a
  learning rate that was not chosen, or that is only a source, was not tested.

  Args:
    facts: What `study.run` returns.
  """
  metrics = task_metrics.names(facts)
  yield [*_KNOWN, *_TESTED, *metrics, *_COST]
  tested = {(name, run["seed"]): run
            for name, runs in facts["runs"].items() for run in runs}
  for one in facts["trainings"]:
    run = tested[one["run"], one["seed"]] if one["role"] == "compared" else {}
    yield [
        *(one[name] for name in _KNOWN.values()),
        *(run.get(name) for name in _TESTED.values()),
        *(run.get("metrics", {}).get(name) for name in metrics),
        *(one[name] for name in _COST.values())]


def pairs(facts: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
  """Yields a header and a row for each pair that was compared.

  A cell is empty where there is no number, as that of nats per token where the two runs
  have different tokens.

  Args:
    facts: As of `trainings`.
  """
  metrics = task_metrics.names(facts)
  yield [
      *_NAMES, *(f"{key}_{unit}" for unit in _UNITS for key in _GAIN),
      *(f"{metric}_{key}" for metric in metrics for key in _METRIC),
      *(f"{side}_steps" for side in _SIDES),
      *(f"{side}_{unit}" for unit in _SPENT for side in _SIDES),
      *(f"effective_{key}" for key in _EFFECTIVE)]
  for pair in facts["comparisons"]:
    yield [
        *_outcome(pair), *_gains(pair),
        *(pair["metrics"].get(metric, {}).get(key) for metric in metrics
          for key in _METRIC),
        *_steps(pair, facts["runs"][pair["control"]]),
        *(pair["cost"].get(unit, {}).get(side) for unit in _SPENT for side in _SIDES),
        *(pair["effective_data"].get(key) for key in _EFFECTIVE)]


def _outcome(pair: Mapping[str, Any]) -> list[Any]:
  """Names, and what was found in the unit that decides."""
  main = comparison.main(pair)
  return [pair["treated"], pair["control"], sentences.unit(pair), main["seeds"],
          main["seeds_ahead"], main["documents"],
          summary.verdict(main, main["gain"] > 0), main["p"], pair["alarm"]["p"]]


def _gains(pair: Mapping[str, Any]) -> list[Any]:
  """The gain with its interval in each unit."""
  found = {"bits_per_byte": pair.get("bits_per_byte", {})}
  if pair["same_tokens"]:
    found[sentences.unit(pair).replace(" ", "_")] = pair
  return [found.get(unit, {}).get(key) for unit in _UNITS for key in _GAIN]


def _steps(pair: Mapping[str, Any], control: Sequence[Mapping[str, Any]]) -> list[Any]:
  """Mean steps to the control's best; of the treated run if all its seeds got there."""
  mean = lambda values: sum(values) / len(values)
  reached = pair["reached"]
  return [None if None in reached else mean(reached),
          mean([run["step"] for run in control])]
