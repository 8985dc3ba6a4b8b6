"""Checks what the config alone shows to be wrong, before anything is read."""

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import model_checks
from transfer_gen.run import strategies
from transfer_gen.train import combined
from transfer_gen.train import parallel


def check(run: config_lib.Run) -> None:
  """Checks the fields of a run that need nothing but the config.

  Raises:
    errors.UserError: If fields have values that they do not declare, or two do not
      go together.
  """
  config_lib.check(run)
  strategies.check(run)
  parallel.check(run.parallel)
  # A strategy may write anchors and a teacher; what it does not write is found when
  # the run is assembled.
  combined.check(
      run.objective, run.train.steps, anchored=True, distill=run.distill or (
          config_lib.Distill(hidden=1.0, attention=1.0) if run.strategy.name else None))
  if run.train.batch_size % run.optim.accumulate:
    raise errors.UserError(
        f"train.batch_size is {run.train.batch_size} and optim.accumulate"
        f" {run.optim.accumulate}, which does not divide it.")
  if run.encoder_tokenizer is not None and not getattr(run.model, "encodes", True):
    raise errors.UserError(
        "encoder_tokenizer is set, and the model has no encoder. Leave it out, or"
        " choose a model with one.")
  if run.tokenizer.sentinels and run.tokenizer.kind == "source" and run.all_sources():
    raise errors.UserError(
        f"tokenizer.sentinels is {run.tokenizer.sentinels}, and the tokenizer of the"
        " source keeps the tokens that it has. Set it to 0, or tokenizer.kind to bpe.")
  model_checks.check_drawn(run)
