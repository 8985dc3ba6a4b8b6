"""Does a classic LSTM generator help in another task with another vocabulary?

Embedding -> LSTM -> LSTM -> Dense(relu) -> softmax is trained on `python_docs` and
moved to the summaries of docstrings. The vocabularies have 2048 and 1024 tokens, so
copying the source's weights as they are, in order, would fail at the first one.

Language models read joined documents (`packing="joined"`), as when the results were
made.

Run:      python -m transfer_gen study --config=experiments/lstm_text.py \
            --workdir=runs/lstm_text
Runs:     source; then scratch, transfer, and transfer with frozen LSTM layers, each
          with 3 learning rates and seeds 0, 1, 2.
Cost:     23 minutes on one CPU core that other work shared.
Result:   transfer leads by 0.59 nats per token, and by 0.56 with frozen LSTM layers.
          Scratch has all the steps that it can use: its validation loss falls no more.
"""

import dataclasses

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


def get_study() -> Study:
  """Returns the study."""
  return Study(
      question="Does a classic LSTM of Python's prose help to summarise docstrings?",
      runs={
          "source": _source(),
          "scratch": _target(),
          "transfer": _target(_plan(Group(name="all", params=".*"))),
          "frozen_body": _target(_plan(
              Group(name="vocab", params="(embed|dense|head)/.*"),
              Group(name="body", params="layer_.*", unfreeze_step=None))),
      },
      pairs=(("transfer", "scratch"), ("frozen_body", "scratch")),
      seeds=(0, 1, 2),
      lrs=(1e-3, 3e-3, 1e-2), budget="converged")


def get_config(name: str = "transfer") -> Run:
  """Returns one run of the study, to plan or train alone once its source has run."""
  run = get_study().runs[name]
  if run.source is not None:
    run.source = Source(path="runs/lstm_text/source")
  return run


def _model() -> Recurrent:
  return Recurrent(cell="lstm", num_layers=2, embed_width=128, hidden_width=192,
                   dense_width=192, dense_activation="relu")


def _source() -> Run:
  return Run(
      model=_model(),
      data=Data(name="python_docs", length=128, packing="joined"),
      tokenizer=Tokenizer(kind="bpe", size=2048),
      optim=Optim(lr=3e-3, warmup_steps=50),
      train=Train(steps=800, batch_size=16, eval_every=200, log_every=50,
                  checkpoint_every=200))


def _target(transfer: TransferPlan | None = None) -> Run:
  return Run(
      model=dataclasses.replace(_model(), dropout=0.1),
      data=Data(name="docstring_summary", input_field="body",
                target_field="summary", length=160, buckets=(64, 96, 128),
                fraction=0.3),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=3e-3, warmup_steps=20),
      train=Train(steps=240, batch_size=16, eval_every=30, log_every=30,
                  checkpoint_every=120),
      source=Source(run="source") if transfer else None,
      transfer=transfer)


def _plan(*groups: Group) -> TransferPlan:
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
      axes=(On(axis="vocab", map=MatchTokens()),),
      groups=groups)
