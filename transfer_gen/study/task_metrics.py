"""Metrics of what the runs of a study write for the test split."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from transfer_gen.metrics import measures
from transfer_gen.metrics import nested
from transfer_gen.metrics import summary as summary_lib
from transfer_gen.run import evaluation
from transfer_gen.run import sheet
from transfer_gen.run import trained as trained_lib

OUTPUTS = "outputs_test.jsonl"  # In the workdir of a compared run.


def measure(
    asked: Sequence[str], trained: trained_lib.Trained, splits: trained_lib.Texts
) -> dict[str, Any]:
  """Measures a run on the test split, and writes what it wrote into its workdir.

  Args:
    asked: Names of metrics and groups; if there are none, nothing is done.
    trained: The run.
    splits: The documents of its data.

  Returns:
    `metrics`, as `summary.numbers` returns them, and `measured`, by name; nothing if no
    metric is asked for.
  """
  if not asked:
    return {}
  found = evaluation.evaluate(
      trained, splits["test"], asked, trained.run.decoding,
      (document.target for document in splits["train"]))
  if found.written is not None:
    sheet.write_outputs(epath.Path(trained.workdir) / OUTPUTS, [found.written])
  measured = {name: found.measured[name] for name in measures.names(asked)}
  return {"metrics": summary_lib.numbers(measured), "measured": measured}


def compare(
    treated: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
  """Compares two runs, paired by seed and by document.

  Args:
    treated: What `outcome.test` returned for each seed of one run.
    control: The same of the other run.

  Returns:
    For each metric what `nested.compare` returns. A metric that had nothing to count in
    some run has no score there, and is left out.
  """
  scored = [name for name in treated[0].get("measured", {}) if all(
      run["metrics"][name] is not None for run in (*treated, *control))]
  return {name: nested.compare([run["measured"][name] for run in treated],
                               [run["measured"][name] for run in control])
          for name in scored}


def summary(
    results: Mapping[str, Sequence[Mapping[str, Any]]], first: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what the summary of a study says of metrics.

  Args:
    results: What `outcome.test` returned for each seed, by the name of the run.
    first: What `comparison.compare` returned for the first pair.

  Returns:
    `<run>_test_<metric>`, the mean over seeds, or None if one has no score, and of the
    first pair `gain_<metric>`, its difference with `low` and `high`.
  """
  means = {
      f"{run}_test_{name}": _mean([one["metrics"][name] for one in seeds])
      for run, seeds in results.items() for name in seeds[0].get("measured", {})}
  return means | {
      f"gain_{name}": {key: one[key] for key in ("difference", "low", "high")}
      for name, one in first["metrics"].items()}


def names(facts: Mapping[str, Any]) -> list[str]:
  """Returns the metrics that a study measured; `facts` is what `study.run` returns."""
  first = next(iter(facts["runs"].values()))[0]
  return [name for name in first.get("metrics", {}) if name in measures.METRICS]


def cell(run: Mapping[str, Any], name: str) -> str:
  """Returns a metric of a run with its 95% interval, for a table."""
  score, interval = run["metrics"][name], run["metrics"]["intervals"].get(name)
  if score is None:
    return "-"
  low, high = (measures.shown(name, bound) for bound in interval)
  return f"{measures.shown(name, score)} ({low} to {high})"


# Not NaN, which JSON does not have.
def _mean(scores: Sequence[float | None]) -> float | None:
  known = [score for score in scores if score is not None]
  return float(np.mean(known)) if len(known) == len(scores) else None
