"""The trainings of a study as a table for other programs."""

from collections.abc import Mapping
import csv
import io
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.study import task_metrics

FILE = "results.csv"  # Beside the page.
# Titles, and the names that the numbers have in `result.json`.
_KNOWN = {"run": "run", "seed": "seed", "lr": "lr", "fraction": "fraction",
          "steps": "steps", "best_step": "step", "validation_loss": "validation_loss"}
_TESTED = {"test_loss": "loss", "bits_per_byte": "bits_per_byte"}
_COST = {"train_tokens": "train_tokens", "train_seconds": "train_seconds",
         "role": "role", "workdir": "workdir"}


def text(facts: Mapping[str, Any]) -> str:
  """Returns a header and a line for each training.

  Numbers are written in full. A cell is empty where there is no number: a training at a
  learning rate that was not chosen, or that is only a source, was not tested.

  Args:
    facts: What `study.run` returns.
  """
  metrics = task_metrics.names(facts)
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow([*_KNOWN, *_TESTED, *metrics, *_COST])
  tested = {(name, run["seed"]): run
            for name, runs in facts["runs"].items() for run in runs}
  for one in facts["trainings"]:
    run = tested[one["run"], one["seed"]] if one["role"] == "compared" else {}
    writer.writerow([
        *(one[name] for name in _KNOWN.values()),
        *(run.get(name) for name in _TESTED.values()),
        *(run.get("metrics", {}).get(name) for name in metrics),
        *(one[name] for name in _COST.values())])
  return buffer.getvalue()


def write(folder: epath.PathLike, facts: Mapping[str, Any]) -> None:
  """Writes results.csv into a folder, whole or not at all."""
  whole.write_text(epath.Path(folder) / FILE, text(facts))
