"""Fine-tunes a language model of words on your text, as ULMFiT does.

The source is a model of general text, such as fastai's AWD-LSTM (.pth) with its
vocabulary beside it. Words that both vocabularies have keep their rows, and new ones
begin as the mean of all. Higher layers learn first and faster (Howard and Ruder, 2018).
"""

from transfer_gen.config import Data, Optim, Run, Strategy, Tokenizer, Train
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

# What the paper trains with, section 4.1.
_DROPOUT = {"embed_dropout": 0.05, "input_dropout": 0.4, "hidden_dropout": 0.3,
            "output_dropout": 0.4, "weight_dropout": 0.5}
_RATIO = 32  # Of the highest learning rate to the lowest, section 3.2.
_MOST = 60_000  # Words, as in fastai.


def get_config() -> Run:
  """Returns the run; `data.train` and `source.path` have to be set."""
  return Run(
      model="source", model_changes=dict(_DROPOUT),
      tokenizer=Tokenizer(kind="words", size=_MOST),
      data=Data(name="files", length=0), transfer=plan,
      strategy=Strategy(name="ulmfit"),
      optim=Optim(lr=4e-3, schedule="slanted", warmup_steps=-1, end_factor=1 / _RATIO,
                  b1=0.7, b2=0.99),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))


# The strategy writes what learns, and replaces these groups.
def plan(run: Run) -> TransferPlan:
  """Returns the plan: all leaves by name, rows of the vocabulary by word."""
  del run
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the leaf of its name"),),
      axes=(On(axis="vocab", map=MatchTokens(fresh="mean")),),
      groups=(Group(name="all", params=".*"),))
