"""Makes a larger model that computes what the source does, and trains it on.

Set the sizes that grow, such as `--config.model.width=512 --config.model.num_heads=8`
or `--config.model.num_layers=12`: widths and heads at whole multiples of the source's.
"""

import dataclasses

from transfer_gen import errors
from transfer_gen.config import Data, Optim, Run, Tokenizer, Train
from transfer_gen.run import open_sources
from transfer_gen.transfer import structure
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import On, TransferPlan

_NOISE = 0.1  # So that copies of one unit learn to differ.
_SIZES = ("width", "num_heads", "mlp_width", "num_layers")


def get_config() -> Run:
  """Returns the run; `data.train`, `source.path` and the sizes have to be set."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", length=0), transfer=plan,
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))


def plan(run: Run) -> TransferPlan:
  """Returns the plan that grows the source's model to the run's."""
  small = None if run.source is None else open_sources.one("source", run.source).model
  sizes = {name: getattr(run.model, name) for name in _SIZES
           if name in run.model_changes}
  if small is None or not sizes:
    raise errors.UserError(
        "recipe:grow needs a model and sizes to grow it to: set"
        " --config.source.path=PATH and, for example, --config.model.num_layers=8.")
  _, plan_ = structure.grow(small, noise=_NOISE, **sizes)
  # The source's own rows are in their place. Only another vocabulary needs matching.
  if run.tokenizer.kind == "source":
    return plan_
  return dataclasses.replace(
      plan_, axes=(*plan_.axes, On(axis="vocab", map=MatchTokens())))
