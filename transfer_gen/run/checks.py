"""Checks what the config alone shows to be wrong, before anything is read."""

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.metrics import measures
from transfer_gen.run import best
from transfer_gen.run import strategies

_COUNTS = ("steps", "batch_size", "batch_tokens", "log_every", "eval_every",
           "checkpoint_every")


def check(run: config_lib.Run) -> None:
  """Checks the fields of a run that need nothing but the config.

  Raises:
    errors.UserError: If a field is out of its range or two do not go together.
  """
  strategies.check(run)
  if isinstance(run.model, str) and run.model != "source":
    raise errors.UserError(
        f"model is {run.model!r}, must be a model's config or 'source'.")
  for field in _COUNTS:
    if getattr(run.train, field) < 0:
      raise errors.UserError(
          f"train.{field} is {getattr(run.train, field)}, must be at least 1, or 0 to"
          " have it chosen.")
  if run.optim.accumulate < 1:
    raise errors.UserError(
        f"optim.accumulate is {run.optim.accumulate}, must be at least 1.")
  if run.train.batch_size % run.optim.accumulate:
    raise errors.UserError(
        f"train.batch_size is {run.train.batch_size} and optim.accumulate"
        f" {run.optim.accumulate}, which does not divide it.")
  if run.encoder_tokenizer is not None and not getattr(run.model, "encodes", True):
    raise errors.UserError(
        "encoder_tokenizer is set, and the model has no encoder. Leave it out, or"
        " choose a model with one.")
  # NumPy's generators, which order the data, take no other seeds.
  if not 0 <= run.seed < 2**32:
    raise errors.UserError(f"seed is {run.seed}, must be from 0 to 2**32 - 1.")
  _check_metric(run)
  if run.parallel.mode not in ("jit", "pmap"):
    raise errors.UserError(
        f"parallel.mode is {run.parallel.mode!r}, must be 'jit' or 'pmap'.")


def _check_metric(run: config_lib.Run) -> None:
  """Checks what validations are compared by."""
  train = run.train
  if train.metric_documents < 0:
    raise errors.UserError(
        f"train.metric_documents is {train.metric_documents}, must be at least 0.")
  # A validation during training looks at outputs and references alone. Novelty would
  # read the text of training again each time.
  known = {name for name, metric in measures.METRICS.items()
           if metric.needs in (measures.OUTPUTS, measures.REFERENCES)} | {best.LOSS}
  # A name that is no metric at all gets an error with the nearest one.
  if measures.names([train.metric]) != (train.metric,) or train.metric not in known:
    raise errors.UserError(
        f"train.metric is {train.metric!r}, must be one of {', '.join(sorted(known))}.")
