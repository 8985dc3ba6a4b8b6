"""Checks that what a run asks for goes with its kind of model."""

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import best
from transfer_gen.train import combined


def check_drawn(run: config_lib.Run) -> None:
  """Checks a run of a model of drawings for what only texts can have.

  Args:
    run: Config of the run. If its model is another one, or is not known yet, there is
      nothing to check.

  Raises:
    errors.UserError: If it asks for such.
  """
  if not isinstance(run.model, config_lib.Sketch):
    return
  terms = run.objective.terms
  if not any(terms[name].is_used for name in combined.LIKELIHOODS):
    raise errors.UserError(
        "objective.bivariate.weight is 0, and then a model of drawings would not learn"
        " how far from its mean a point may be. Set it to 1, or give one of"
        f" {', '.join(combined.LIKELIHOODS[1:])} a weight.")
  of_texts = {
      "encoder_tokenizer": run.encoder_tokenizer,
      "train.metric": run.train.metric != best.LOSS}
  if wrong := [name for name, given in of_texts.items() if given]:
    raise errors.UserError(
        f"{', '.join(wrong)}: a model of drawings reads and writes no texts that these"
        " act on. Leave them out.")
