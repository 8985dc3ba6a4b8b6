"""Does textgenrnn's pretrained model of titles and posts help to invent names?

The source is a Keras model over 465 characters: two LSTMs of 128 units in cuDNN's form,
and an average of all states by attention. `recipe:language_model` builds the target
like it, over the characters of the names. Each prediction reads only the last 40
characters of its name, so that a character costs 40 steps; therefore the experiment
uses the 1,693 names of 9 letters or more.

Run:      python -m transfer_gen study --config=experiments/textgenrnn.py \
            --workdir=runs/textgenrnn --results=experiments/RESULTS.md
          It reads textgenrnn/textgenrnn_weights.hdf5 and textgenrnn_vocab.json
          (github.com/minimaxir/textgenrnn) and names/names.txt
          (github.com/karpathy/makemore) in the folder `data`, or in the folder that the
          environment variable TRANSFER_GEN_DATA names.
Runs:     transfer and scratch, each with 2 learning rates and seeds 0, 1, 2. Where the
          loss from scratch still fell at the end, it is trained again with twice, four
          and eight times the steps.
Cost:     46 minutes on one CPU core that other work shared, most of them for scratch
          with four and eight times the steps.
Result:   With 100 steps each, transfer leads by 0.55 nats per token. Scratch was still
          improving; with eight times the steps, which is enough, it leads by 0.27.
          Transfer was not tried with so many.
"""

import dataclasses
import os

from transfer_gen.config import Run, Source, Study, Tokenizer
from transfer_gen.recipes import language_model
from transfer_gen.study import from_run

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")


def get_study() -> Study:
  """Returns the study."""
  return dataclasses.replace(
      from_run.study(get_config()), seeds=(0, 1, 2), lrs=(3e-3, 1e-2),
      budget="converged",
      question="Does a pretrained textgenrnn help to make up long names?")


def get_config() -> Run:
  """Returns the run that starts from textgenrnn."""
  recipe = language_model.get_config()
  return dataclasses.replace(
      recipe, source=Source(path=f"{_FILES}/textgenrnn/textgenrnn_weights.hdf5"),
      tokenizer=Tokenizer(kind="characters"),
      data=dataclasses.replace(
          recipe.data, train=f"{_FILES}/names/names.txt", min_chars=9, length=16),
      optim=dataclasses.replace(recipe.optim, lr=3e-3),
      train=dataclasses.replace(recipe.train, steps=100, batch_size=16))
