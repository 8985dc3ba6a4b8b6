"""Does a tiny Llama of children's stories help to learn a novel, with new tokens?

llama2.c's stories260K (5 layers of width 64, 8 query heads and 4 key-value heads, 512
tokens) becomes a model of the lines of Natsume's "Botchan" in English, with a BPE
vocabulary of 1024 tokens that is trained on them. Tokens that both vocabularies have
keep their row; the row of any other token starts as the mean of the source's tokens
that spell it.

Language models read joined documents (`packing="joined"`), as when the results were
made.

Run:      python -m transfer_gen study --config=experiments/stories.py \
            --workdir=runs/stories --results=experiments/RESULTS.md
          It reads stories260K/stories260K.bin and tok512.bin beside it
          (huggingface.co/karpathy/tinyllamas) and tokenizers/botchan.txt
          (github.com/google/sentencepiece) in the folder `data`, or in the folder that
          the environment variable TRANSFER_GEN_DATA names.
Runs:     scratch and transfer, each with 2 learning rates and seeds 0, 1, 2.
Cost:     10 minutes on 2 CPU cores, beside much other work.
Result:   experiments/RESULTS.md.
"""

import os

from transfer_gen.config import (
  Data,
  Decoder,
  Optim,
  Run,
  Source,
  Study,
  Tokenizer,
  Train,
)
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")


def get_study() -> Study:
  """Returns the study."""
  return Study(
      question="Does a tiny Llama of children's stories help to learn a novel?",
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
      # The architecture of stories260K, so that only the vocabulary must be mapped.
      model=Decoder(
          num_layers=5, width=64, num_heads=8, num_kv_heads=4, mlp_width=172,
          position="rotary", max_length=512, norm="rms", activation="swiglu",
          bias=False),
      data=Data(name="files", train=f"{_FILES}/tokenizers/botchan.txt", length=128,
                packing="joined"),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=3e-3, warmup_steps=20),
      train=Train(steps=80, batch_size=8, eval_every=20, log_every=40,
                  checkpoint_every=80),
      source=Source(path=f"{_FILES}/stories260K/stories260K.bin") if plan else None,
      transfer=plan)


def _plan() -> TransferPlan:
  return TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
      axes=(On(axis="vocab", map=MatchTokens(fresh="pieces")),),
      groups=(Group(name="all", params=".*"),))
