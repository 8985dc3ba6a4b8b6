"""Gives a language model a vocabulary that is trained on your text.

Tokens that both vocabularies have keep their rows. The row of any other token begins as
the mean of the source's tokens that spell it.
"""

from transfer_gen import errors
from transfer_gen.config import Data, Optim, Run, Tokenizer, Train
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan


def get_config() -> Run:
  """Returns the run; `data.train` and `source.path` have to be set."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="bpe", size=0),
      data=Data(name="files", length=0), transfer=plan,
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))


def plan(run: Run) -> TransferPlan:
  """Returns the plan: all leaves by name, rows of the vocabulary by token."""
  if run.source is None:
    raise errors.UserError(
        "recipe:new_vocabulary needs a model to start from: set"
        " --config.source.path=PATH.")
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the leaf of its name"),),
      axes=(On(axis="vocab", map=MatchTokens(fresh="pieces")),),
      groups=(Group(name="all", params=".*"),))
