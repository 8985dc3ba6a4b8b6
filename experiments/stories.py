"""Does a tiny Llama of children's stories help to learn a novel, with new tokens?

llama2.c's stories260K (5 layers of width 64, 8 query heads and 4 key-value heads, 512
tokens) becomes a model of the lines of Natsume's "Botchan" in English by
`recipe:new_vocabulary`: with a BPE vocabulary of 1024 tokens that is trained on them.
Tokens that both vocabularies have keep their row; the row of any other token starts as
the mean of the source's tokens that spell it.

Run:      python -m transfer_gen study --config=experiments/stories.py \
            --workdir=runs/stories --results=experiments/RESULTS.md
          It reads stories260K/stories260K.bin and tok512.bin beside it
          (huggingface.co/karpathy/tinyllamas) and tokenizers/botchan.txt
          (github.com/google/sentencepiece) in the folder `data`, or in the folder that
          the environment variable TRANSFER_GEN_DATA names.
Runs:     transfer and scratch, each with 2 learning rates and seeds 0, 1, 2.
Cost:     43 minutes on one CPU core that other work shared.
Result:   With 300 steps each, transfer leads by 0.57 nats per token. With twice its
          steps, scratch is as good: +0.03, not clear. The source brought time, as
          transfer was at the best loss of scratch after 90 of 300 steps.
"""

import dataclasses
import os

from transfer_gen.config import Run, Source, Study, Tokenizer
from transfer_gen.recipes import new_vocabulary
from transfer_gen.study import from_run

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")


def get_study() -> Study:
  """Returns the study."""
  return dataclasses.replace(
      from_run.study(get_config()), seeds=(0, 1, 2), lrs=(3e-3, 1e-2),
      budget="converged",
      question="Does a tiny Llama of children's stories help to learn a novel?")


def get_config() -> Run:
  """Returns the run that starts from the Llama."""
  recipe = new_vocabulary.get_config()
  return dataclasses.replace(
      recipe, source=Source(path=f"{_FILES}/stories260K/stories260K.bin"),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      data=dataclasses.replace(
          recipe.data, unit="line", train=f"{_FILES}/tokenizers/botchan.txt"),
      optim=dataclasses.replace(recipe.optim, lr=3e-3),
      train=dataclasses.replace(recipe.train, steps=300))
