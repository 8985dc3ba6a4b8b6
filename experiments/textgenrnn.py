"""Does textgenrnn's pretrained model of titles and posts help to invent names?

The source is a Keras model over 465 characters: two LSTMs of 128 units in cuDNN's form,
and an average of all states by attention. The target's vocabulary holds the letters of
the names. Each prediction reads only the last 40 characters, so that a character costs
40 steps; therefore the experiment uses the 1,693 names of 9 letters or more.

Names are joined (`packing="joined"`), as when the results were made: the windows of
both runs reach into the name before. With `packing="separate"`, the default, a name is
read as textgenrnn itself reads it.

Run:      python -m transfer_gen study --config=experiments/textgenrnn.py \
            --workdir=runs/textgenrnn --results=experiments/RESULTS.md
          It reads textgenrnn/textgenrnn_weights.hdf5 and textgenrnn_vocab.json
          (github.com/minimaxir/textgenrnn) and names/names.txt
          (github.com/karpathy/makemore) in the folder `data`, or in the folder that the
          environment variable TRANSFER_GEN_DATA names.
Runs:     scratch and transfer, each with 2 learning rates and seeds 0, 1, 2.
Cost:     about 5 minutes on 2 CPU cores, by the CPU time of the run; the 23 minutes in
          RESULTS.md were measured beside much other work.
Result:   experiments/RESULTS.md.
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
_SOURCE = f"{_FILES}/textgenrnn/textgenrnn_weights.hdf5"


def get_study() -> Study:
  """Returns the study."""
  return Study(
      question="Does a pretrained textgenrnn help to make up long names?",
      runs={
          "scratch": _run(),
          "transfer": _run(_plan()),
      },
      pairs=(("transfer", "scratch"),),
      seeds=(0, 1, 2), lrs=(3e-3, 1e-2))


def get_config(name: str = "transfer") -> Run:
  """Returns one run of the study, to plan or train alone."""
  return get_study().runs[name]


def _run(plan: TransferPlan | None = None) -> Run:
  return Run(
      # The architecture of textgenrnn: cuDNN's LSTMs have two biases and no constant in
      # the forget gate.
      model=Recurrent(
          cell="lstm", num_layers=2, embed_width=100, hidden_width=128,
          forget_bias=0.0, recurrent_bias=True, attention=True, window=40),
      data=Data(
          name="files", train=f"{_FILES}/names/names.txt", min_chars=9, length=32,
          packing="joined"),
      tokenizer=Tokenizer(kind="characters"),
      optim=Optim(lr=3e-3, warmup_steps=10),
      train=Train(steps=60, batch_size=8, eval_every=20, log_every=30,
                  checkpoint_every=60),
      source=Source(path=_SOURCE) if plan else None,
      transfer=plan)


def _plan() -> TransferPlan:
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
      axes=(On(axis="vocab", map=MatchTokens()),),
      groups=(Group(name="all", params=".*"),))
