"""Does a language model of the texts alone help to write them from data?

E2E (Novikova et al., 2017) describes restaurants: a meaning such as `name[Aromi],
food[French], area[city centre]` has several right sentences. Texts are cheap and their
meanings are not, so the source is a language model of all sentences without their
meanings, and the targets learn from 1%, 3%, 10% and all of the pairs, 379, 1,135, 3,783
and 37,829, against the same model from scratch. Each share has a vocabulary of its own,
of meanings and sentences, which both runs of a pair have in common. A model reads a
meaning before its sentence.

Every tenth meaning of the training file validates, and the source sees none of its
sentences. E2E's validation file tests: 547 meanings, none of which is in training, with
8.5 sentences each, and BLEU compares with all of them. All sentences are divided into
words, as in the files, about which sacreBLEU warns; that is so for both runs of a pair.

Run:      bash experiments/data_to_text.sh
          It reads e2e/train.jsonl.gz and validation.jsonl.gz in the folder `data`, or
          in the folder that the environment variable TRANSFER_GEN_DATA names; each line
          is {"mr": "...", "ref": "..."}.
Runs:     texts, the source; then moved and scratch on each share, with seeds 0, 1, 2.
          All stop when five validations in a row are no better. Where the loss from
          scratch still fell at the end, it is trained again with twice, four and eight
          times the steps.
Cost:     81 minutes on one CPU core that other work shared, 43 of them for scratch with
          eight times the steps on all pairs.
Result:   With equal steps, the test loss is lower by 0.54, 0.25, 0.11 and 0.04 nats per
          token with 1%, 3%, 10% and all pairs, but the texts are no better: BLEU shows
          no difference with 1% and is lower by 7.9, 11.4 and 3.5 points with the
          others. What the source brings is how sentences go on, which it knew without
          any meaning. From scratch with the steps that it needs, the loss leads of the
          moved runs turn: +0.20 with 3%, -0.06 with 10% and -0.21 with all pairs, where
          scratch had eight times the steps and its loss still fell. BLEU is then lower
          by 12.9, 15.2 and 8.8 points (the last not clear), so that here a language
          model of the texts is worth its cost with 1% alone, and there in loss alone.
"""

import os
from typing import Any

from transfer_gen.config import (
    Data,
    Decoder,
    Decoding,
    Optim,
    Run,
    Source,
    Study,
    Tokenizer,
    Train,
)

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
_RUNS = os.environ.get("TRANSFER_GEN_RUNS", "runs/data_to_text")
_TEXT_STEPS = 1600
# Most training steps by percentage of the pairs.
_STEPS = {"1": 300, "3": 400, "10": 700, "100": 2000}
_VALIDATIONS = 15


def get_study() -> Study:
  """Returns the study, with one pair of runs for each share of the training pairs."""
  runs = {"texts": _run(_data(length=64), _TEXT_STEPS)}
  for share, steps in _STEPS.items():
    pairs = _data(input_field="mr", length=128, buckets=(48, 64, 80),
                  fraction=int(share) / 100)
    runs[f"moved_{share}"] = _run(pairs, steps, Source(run="texts"))
    runs[f"scratch_{share}"] = _run(pairs, steps)
  return Study(
      question="Does a language model of the texts alone help to write them from"
               " data?",
      runs=runs,
      pairs=tuple((f"moved_{share}", f"scratch_{share}") for share in _STEPS),
      seeds=(0, 1, 2), metrics=("bleu", "rougeL"), budget="converged")


def get_config(name: str = "moved_1") -> Run:
  """Returns one run of the study, to plan or train alone once its source has run."""
  run = get_study().runs[name]
  if run.source is not None:
    run.source = Source(path=f"{_RUNS}/texts")
  return run


def _data(**fields: Any) -> Data:
  return Data(
      name="files", train=f"{_RUNS}/data/train.jsonl",
      validation=f"{_RUNS}/data/validation.jsonl",
      test=f"{_FILES}/e2e/validation.jsonl.gz", target_field="ref", max_validation=200,
      **fields)


def _run(data: Data, steps: int, source: Source | None = None) -> Run:
  return Run(
      model=Decoder(num_layers=2, width=128, num_heads=4, position="rotary",
                    dropout=0.1),
      data=data, tokenizer=Tokenizer(kind="bpe", size=1024), source=source,
      # Open: 0.003 from scratch, and a third of it for what is moved.
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=steps, batch_size=16, eval_every=steps // _VALIDATIONS,
                  log_every=steps // _VALIDATIONS, checkpoint_every=steps,
                  patience=5),
      decoding=Decoding(max_tokens=80))
