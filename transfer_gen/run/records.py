"""What a run records while it trains: metrics, TensorBoard events, samples, scores."""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import time
from typing import Any

from etils import epath
import numpy as np
from tensorboardX import event_file_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2

from transfer_gen import errors
from transfer_gen import processes
from transfer_gen import remote
from transfer_gen import untrusted
from transfer_gen.formats import whole
from transfer_gen.train import score as score_lib

_PROTO: Any = event_pb2  # Its classes are made when it is imported.
METRICS = "metrics.jsonl"  # In a workdir.
EVENTS = "tensorboard"  # In a workdir.
_SAMPLES = "samples"  # How the files of events begin that hold texts.
_FIELDS = ("step", "loss")
_FLUSH = 60  # Seconds between two flushes of events, which wait for the disk.
_TRAINING = (*_FIELDS, "tokens_per_second", "seconds")


class MetricsWriter:
  """Writes metrics.jsonl, one object per line, and TensorBoard events beside it.

  Of processes that train together, the first one does; all others write nothing.
  """

  def __init__(
      self, workdir: epath.PathLike, step: int, validated: bool = True,
      events: epath.Path | None = None,
      rates: Callable[[int], Mapping[str, float]] = lambda step: {}):
    """Continues after `step`: later lines, which a killed run left, are removed.

    Args:
      workdir: Workdir of the run.
      step: Step of the checkpoint that the run goes on from; 0 without one.
      validated: Whether the line of its validation stays as well.
      events: Folder of the events; `EVENTS` in the workdir if None.
      rates: From the number of steps before one to its learning rates, by group, which
        the events show beside its metrics.
    """
    self._path, self._rates = epath.Path(workdir) / METRICS, rates
    if not processes.is_first():
      return
    # Training comes before validation, so the second counts as half a step later.
    at = lambda line: line["step"] + (line["split"] != "train") / 2
    kept = [line for line in read_metrics(workdir)
            if at(line) <= step + validated / 2]
    whole.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
    with whole.writing(workdir):
      self._file = remote.Lines(self._path)
      self._events = _Events(events or epath.Path(workdir) / EVENTS)
      self._events.hide(step + 1)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Adds one line."""
    if not processes.is_first():
      return
    with whole.writing(self._path):
      # Line by line, so that a run can be watched, and a killed one keeps its lines.
      self._file.add(json.dumps({"step": step, "split": split, **metrics}) + "\n")
      shown = {f"{split}/{name}": value for name, value in metrics.items()}
      if split == "train":
        shown |= {f"learning_rate/{group}": rate
                  for group, rate in self._rates(step - 1).items()}
      self._events.write(step, shown)

  def close(self) -> None:
    """Closes both files."""
    if not processes.is_first():
      return
    with whole.writing(self._path):
      self._file.close()
      self._events.close()


class _Events:
  """Writes events for TensorBoard, in the thread of the caller.

  The writer that tensorboardX offers for this has a thread and a queue. Where the disk
  is full, the thread ends and the queue has no end.
  """

  def __init__(self, folder: epath.Path, begin: str = "events"):
    """Begins a file in a folder; its name begins with `begin`."""
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = event_file_writer.EventsWriter(os.fspath(folder / begin))
    self._flushed = time.monotonic()

  def hide(self, first: int) -> None:
    """Hides events from the step `first` on that an earlier process has written."""
    self._add(first, session_log=_PROTO.SessionLog(
        status=_PROTO.SessionLog.START))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds an event with all values."""
    self._add(step, summary=summary.Summary(value=[
        value for name, number in values.items()
        for value in summary.scalar(name, number).value]))
    if time.monotonic() - self._flushed > _FLUSH:
      self._writer.flush()
      self._flushed = time.monotonic()

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Adds an event with texts, which TensorBoard reads as Markdown."""
    self._add(step, summary=summary.Summary(value=[
        value for name, text in texts.items()
        for value in summary.text(name, text).value]))

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

  def _add(self, step: int, **content: Any) -> None:
    self._writer.write_event(
        _PROTO.Event(wall_time=time.time(), step=step, **content))


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the complete lines of a run's metrics, in order.

  Raises:
    errors.UserError: If a line is damaged, which the message names.
  """
  path = epath.Path(workdir) / METRICS
  if not path.exists():
    return []
  # A killed run may cut its last line.
  lines = untrusted.read(untrusted.inside(path)).split(b"\n")[:-1]
  return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _parsed(text: bytes, where: str) -> dict[str, Any]:
  """Returns a line of metrics, which has what `MetricsWriter` gives every line."""
  try:
    line = untrusted.parse_json(text)
    wanted = _TRAINING if line["split"] == "train" else _FIELDS
    if isinstance(line["split"], str) and all(
        isinstance(line[name], (int, float)) for name in wanted) and all(
        isinstance(value, (int, float, str, type(None))) for value in line.values()):
      return line
    cause = "a field is of another type"
  except (errors.UserError, LookupError, TypeError, AttributeError) as error:
    cause = errors.cause(error)
  raise errors.UserError(
      f"{where}: it is no line of metrics ({cause}). Remove the line, or restore the"
      " file from a copy.")


def write_samples(
    workdir: epath.PathLike, prompts: Sequence[str], texts: Sequence[str],
    **more: Sequence[Any],
) -> list[dict[str, str]]:
  """Writes samples.jsonl anew; `more` holds further columns of equal length."""
  lines = [{"prompt": prompt, "text": text,
            **{name: values[i] for name, values in more.items()}}
           for i, (prompt, text) in enumerate(zip(prompts, texts))]
  # Whole: a study that was killed tests a run again, and would add the same lines.
  whole.write_text(epath.Path(workdir) / "samples.jsonl",
                   "".join(json.dumps(line) + "\n" for line in lines))
  return lines


def write_sample_events(
    folder: epath.Path, step: int, samples: Sequence[Mapping[str, str]]) -> None:
  """Shows samples in TensorBoard, in place of those that were written before.

  Args:
    folder: Folder of the events of a run.
    step: Step of the checkpoint that wrote them.
    samples: What `write_samples` returned.
  """
  with whole.writing(folder):
    events = _Events(folder, _SAMPLES)
    mine = max(folder.glob(f"{_SAMPLES}.*"), key=lambda path: path.stat().mtime)
    for path in folder.glob(f"{_SAMPLES}.*"):
      if path != mine:
        path.unlink()
    # Indented by four, text is code to Markdown, and stays as it is.
    shown = lambda text: "\n".join(f"    {line}" for line in text.splitlines())
    events.write_texts(step, {f"sample/{number}": "\n\n".join(
        f"**{name}**\n\n{shown(text)}" for name, text in sample.items())
        for number, sample in enumerate(samples, 1)})
    events.close()


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


def read_scores(
    workdir: epath.PathLike, split: str, step: int) -> score_lib.Scores | None:
  """Returns what was written of a checkpoint; None if nothing was.

  Args:
    workdir: Workdir of the run.
    split: Name of the split.
    step: Step of the checkpoint.

  Raises:
    errors.UserError: If the file is damaged.
  """
  path = epath.Path(workdir) / f"scores_{split}.json"
  if not path.exists():
    return None

  def scores(found: dict[str, Any]) -> score_lib.Scores | None:
    # Without terms, an earlier version of `evaluate` has written it, maybe of a part of
    # the split.
    if found["step"] != step or "terms" not in found:
      return None
    return score_lib.Scores(
        nats=np.array(found["nats"], np.float64),
        tokens=np.array(found["document_tokens"], np.int64),
        text_bytes=np.array(found["document_bytes"], np.int64), terms=found["terms"])

  return whole.read_json(path, scores, "Delete it: the run is then scored again.")
