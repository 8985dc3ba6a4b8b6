"""Does a character LSTM of Charlotte Brontë's novels help to learn Shakespeare?

The source is ml5's published model: two BasicLSTMCells of 128 units over 108
characters, in TensorFlow's own files. The target is the same model over tiny
Shakespeare's 65 characters; the source lacks one of them, "$". No special tokens
separate texts: line ends are part of the data, and a speech ends with the blank line
after it.

Paragraphs are joined into one running text (`packing="joined"`), which is what the
source was trained on.

Run:      python -m transfer_gen study --config=experiments/bronte_to_shakespeare.py \
            --workdir=runs/bronte_to_shakespeare --results=experiments/RESULTS.md
          It reads ml5_charrnn/charlotte_bronte/ (github.com/ml5js/ml5-data-and-models)
          and tinyshakespeare/input.txt (github.com/karpathy/char-rnn) in the folder
          `data`, or in the folder that the environment variable TRANSFER_GEN_DATA
          names.
Runs:     zero_shot is the source as it is: it trains for as many steps as scratch_1, at
          a billionth of the learning rate. Then scratch and bronte train on 1%, 10% and
          all of the training speeches, each with 2 learning rates, which the study
          widens where the best one lies at an edge, and seeds 0, 1, 2.
Cost:     about 12 minutes on 2 CPU cores, estimated from the rate of a run alone; the
          49 minutes in RESULTS.md were measured beside much other work.
Result:   experiments/RESULTS.md. Losses there are of windows of 128 characters from an
          empty state. On windows of 600 characters, without their first 50, the source
          as it is has a loss of 2.17. A model of the same form that was trained to the
          end on Shakespeare reached 1.29 on its training text; after the 300 steps of
          this experiment, scratch reaches 1.73 to 1.87 there, and bronte 1.46.
"""

import os

from transfer_gen.config import (
  Data,
  Optim,
  Recurrent,
  Run,
  Source,
  Study,
  Tokenizer,
  Train,
)
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
_TEXT = f"{_FILES}/tinyshakespeare/input.txt"
# Training steps by percentage of the training data.
_STEPS = {"1": 40, "10": 100, "100": 300}


def get_study() -> Study:
  """Returns the study, with one pair of runs for each share of the training data."""
  # As many steps as its control; this rate leaves its params where they started.
  runs = {"zero_shot": _run("1", _STEPS["1"], _plan(lr_mult=1e-9))}
  for share, steps in _STEPS.items():
    runs[f"bronte_{share}"] = _run(share, steps, _plan())
    runs[f"scratch_{share}"] = _run(share, steps)
  return Study(
      question="Does a character LSTM of Brontë's novels help to learn Shakespeare?",
      runs=runs,
      pairs=(*((f"bronte_{share}", f"scratch_{share}") for share in _STEPS),
             ("zero_shot", "scratch_1")),
      seeds=(0, 1, 2), lrs=(1e-2, 3e-2), budget="converged")


def get_config(name: str = "bronte_100") -> Run:
  """Returns one run of the study, to plan or train alone."""
  return get_study().runs[name]


def _run(share: str, steps: int, plan: TransferPlan | None = None) -> Run:
  return Run(
      model=Recurrent(cell="lstm", num_layers=2, embed_width=128, hidden_width=128),
      data=Data(name="files", train=_TEXT, unit="paragraph", newline="keep",
                packing="joined", fraction=int(share) / 100),
      tokenizer=Tokenizer(kind="alphabet", path=_TEXT),
      optim=Optim(lr=1e-2, warmup_steps=20),
      train=Train(steps=steps, batch_size=32, eval_every=steps // 20,
                  log_every=50, checkpoint_every=steps),
      source=Source(path=f"{_FILES}/ml5_charrnn/charlotte_bronte") if plan else None,
      transfer=plan)


def _plan(lr_mult: float = 1.0) -> TransferPlan:
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
      axes=(On(axis="vocab", map=MatchTokens()),),
      groups=(Group(name="all", params=".*", lr_mult=lr_mult),))
