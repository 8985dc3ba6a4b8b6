"""What a run records while it trains: metrics, TensorBoard events, samples, scores."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import tensorboardX

from transfer_gen.formats import whole
from transfer_gen.train import score as score_lib

METRICS = "metrics.jsonl"  # In a workdir.


class MetricsWriter:
  """Writes metrics.jsonl, one object per line, and TensorBoard events beside it."""

  def __init__(self, workdir: epath.PathLike, step: int, validated: bool = True):
    """Continues after `step`: later lines, which a killed run left, are removed.

    Args:
      workdir: Workdir of the run.
      step: Step of the checkpoint that the run goes on from; 0 without one.
      validated: Whether the line of its validation stays as well.
    """
    self._path = epath.Path(workdir) / METRICS
    # Training comes before validation, so the second counts as half a step later.
    at = lambda line: line["step"] + (line["split"] != "train") / 2
    kept = [line for line in read_metrics(workdir)
            if at(line) <= step + validated / 2]
    whole.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = self._path.open("a")
    self._events = tensorboardX.SummaryWriter(
        # TensorBoard hides events from this step on that an earlier process has
        # written.
        str(epath.Path(workdir) / "tensorboard"), purge_step=step + 1)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Adds one line."""
    self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
    # Flushed line by line, so that a run can be watched, and a killed one keeps its
    # lines.
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    """Closes both files."""
    self._file.close()
    self._events.close()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the complete lines of a run's metrics, in order."""
  path = epath.Path(workdir) / METRICS
  if not path.exists():
    return []
  lines = path.read_text().split("\n")[:-1]  # A killed run may cut its last line.
  return [json.loads(line) for line in lines]


def add_samples(
    workdir: epath.PathLike, prompts: Sequence[str], texts: Sequence[str],
    **more: Sequence[Any],
) -> list[dict[str, str]]:
  """Adds lines to samples.jsonl; `more` holds further columns of equal length."""
  lines = [{"prompt": prompt, "text": text,
            **{name: values[i] for name, values in more.items()}}
           for i, (prompt, text) in enumerate(zip(prompts, texts))]
  path = epath.Path(workdir) / "samples.jsonl"
  with path.open("a") as file:
    file.writelines(json.dumps(line) + "\n" for line in lines)
  return lines


def write_scores(
    workdir: epath.PathLike, split: str, step: int, scores: score_lib.Scores,
    metrics: Mapping[str, Any] | None = None,
) -> None:
  """Writes `scores_<split>.json`: the sums of each document, for paired comparison.

  Args:
    workdir: Workdir of the run.
    split: Name of the split.
    step: Step of the checkpoint that was scored.
    scores: Its losses.
    metrics: Further facts of it, such as metrics of texts by name.
  """
  whole.write_json(epath.Path(workdir) / f"scores_{split}.json", {
      "step": step, **scores.metrics(), **(metrics or {}), "nats": scores.nats.tolist(),
      "document_tokens": scores.tokens.tolist(),
      "document_bytes": scores.text_bytes.tolist()})
