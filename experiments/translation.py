"""Does a model that translates English to French help to learn English to Czech?

Parent and child are runs of `recipe:translate` on disjoint halves of Multi30k, 14,500
pairs each. The child has a vocabulary of its own, trained on its share of its half
alone; rows of tokens that the parent has too, such as English words, are copied, and
all other leaves as well (Zoph et al., 2016; Kocmi and Bojar, 2018). The control is the
same model with the same vocabulary from scratch. Both sides have the same steps, and
stop when five validations in a row are no better.

Run:      bash experiments/translation.sh
          It reads multi30k/ (github.com/multi30k/dataset) in the folder `data`, or in
          the folder that the environment variable TRANSFER_GEN_DATA names.
Runs:     The parent, once. `few` compares both on 1%, 3% and 10% of the child's half,
          with seeds 0, 1 and 2; `many` on 30% and all of it, with seed 0.
Cost:     about 70 minutes on 2 CPU cores, by the tokens of all runs at the 15,000 in a
          second of a run alone: 9 for the parent, 23 for `few` and 28 for `many`, and
          half a minute for each test. The 55 and 59 minutes of the studies in
          RESULTS.md were measured beside much other work.
Result:   experiments/RESULTS.md. BLEU on 1%, 3%, 10%, 30% and all of the half: 0.5,
          2.2, 7.6, 15.2 and 25.6 with the parent; 0.1, 0.4, 1.0, 4.8 and 25.3 from
          scratch, where the last difference is not clear (p = 0.45). Up to 30%,
          validation loss from scratch was lowest before the steps were done; on all of
          the half it fell by less than 1% in the last fifth of them.
"""

import dataclasses
import os

from transfer_gen.config import EncoderDecoder, Run, Source, Study, Tokenizer
from transfer_gen.recipes import translate

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
_RUNS = os.environ.get("TRANSFER_GEN_RUNS", "runs/translation")
_PARENT_STEPS = 6000
# Most training steps by percentage of the child's half. Those of the smaller shares are
# more than are taken: validation ends these runs.
_STEPS = {"1": 400, "3": 800, "10": 1500, "30": 3000, "100": 6000}
_PARTS = {"few": ("1", "3", "10"), "many": ("30", "100")}
_VALIDATIONS = 15  # Of each run, unless it stops earlier.


def get_study(part: str = "few") -> Study:
  """Returns the study of some shares of the training data: `few` or `many`."""
  runs = {}
  for share in _PARTS[part]:
    runs[f"transfer_{share}"] = _child(share, Source(path=f"{_RUNS}/parent"))
    runs[f"scratch_{share}"] = _child(share)
  return Study(
      question="Does a model of English to French help to learn English to Czech"
               f" ({part} pairs)?",
      runs=runs,
      pairs=tuple((f"transfer_{share}", f"scratch_{share}") for share in _PARTS[part]),
      seeds=(0, 1, 2) if part == "few" else (0,), metrics=("bleu", "chrf"),
      budget="converged")


def get_config(name: str = "parent") -> Run:
  """Returns the parent, or a run of a study such as `transfer_10`."""
  if name == "parent":
    return _run("parent", "fr", _PARENT_STEPS)
  runs = {**get_study("few").runs, **get_study("many").runs}
  return runs[name]


def _child(share: str, source: Source | None = None) -> Run:
  run = _run("child", "cs", _STEPS[share])
  return dataclasses.replace(
      run, source=source, data=dataclasses.replace(
          run.data, fraction=int(share) / 100))


def _run(half: str, language: str, steps: int) -> Run:
  pair = lambda path, ending="": "|".join(
      f"{path}.{side}{ending}" for side in ("en", language))
  recipe = translate.get_config()
  return dataclasses.replace(
      # Small, and with little dropout, so that runs from scratch get to where their
      # validation loss no longer falls.
      recipe, model=EncoderDecoder(
          num_layers=2, width=128, mlp_width=512, num_heads=4, position="rotary",
          dropout=0.1),
      tokenizer=Tokenizer(kind="bpe", size=0),
      data=dataclasses.replace(
          recipe.data, train=pair(f"{_RUNS}/data/{half}"),
          validation=pair(f"{_FILES}/multi30k/val", ".gz"),
          test=pair(f"{_FILES}/multi30k/test_2016_flickr", ".gz")),
      train=dataclasses.replace(
          recipe.train, steps=steps, eval_every=steps // _VALIDATIONS,
          checkpoint_every=steps // _VALIDATIONS))
