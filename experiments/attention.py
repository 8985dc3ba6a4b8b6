"""Is an LSTM that attends as good a translator, and as good a parent, as a Transformer?

The data, the steps and the seeds are those of experiments/translation.py, and so is the
Transformer. Beside it stands an LSTM whose steps take as long: two layers of width 128,
an encoder that reads both ways, Luong's attention (2015) with input feeding. Its cells
have 1.2 million params and the Transformer's layers 0.9; it has three tables of tokens,
and the Transformer one. Each has a parent from English to French of its own kind. The
questions are whether the LSTM gains from its parent, and whether it translates better
than the Transformer from scratch and with a parent.

Run:      bash experiments/attention.sh
          It reads multi30k/ as experiments/translation.sh does, and shares its folder
          of runs: a parent that lies there is not trained again.
Runs:     The parents, once each. The study compares four runs on 10% of the child's
          half, 1,450 pairs, with seeds 0, 1 and 2.
Cost:     about 70 minutes of CPU time: 12 and 18 for the parents, 25 for the runs of
          the LSTM with their tests, and 15 for those of the Transformer.
Result:   As a parent the LSTM is worth as much: its child gains 8.4 BLEU over scratch,
          and the Transformer's 7.1. The two children are close, and disagree: the
          LSTM's translates better (9.6 and 8.1 BLEU) with a higher loss (by 0.21 nats
          per token). From scratch, on so few pairs, neither translates (1.2 and 1.0).
          RESULTS.md is of equal steps, from before `budget="converged"` stood here: one
          of three LSTMs from scratch was best at its last step. The runs of the
          Transformer were trained at commit 154d2421fd, whose Transformer is that of
          the commit in RESULTS.md.
"""

import dataclasses
import os

from experiments import translation
from transfer_gen.config import Recurrent, Run, Source, Study

_RUNS = os.environ.get("TRANSFER_GEN_RUNS", "runs/translation")
_SHARE = "10"
_LSTM = Recurrent(
    cell="lstm", num_layers=2, embed_width=128, hidden_width=128, encoder=True,
    bidirectional=True, bridge="linear", encoder_attention="general",
    input_feeding=True, dropout=0.1)


def get_study() -> Study:
  """Returns the study of both kinds on the same pairs."""
  kinds = ("lstm", "transformer")
  runs = {f"{kind}_{start}": get_config(f"{kind}_{start}")
          for kind in kinds for start in ("transfer", "scratch")}
  return Study(
      question="Is an LSTM that attends as good a translator and parent as a"
               " Transformer?",
      runs=runs,
      pairs=(*((f"{kind}_transfer", f"{kind}_scratch") for kind in kinds),
             *((f"lstm_{start}", f"transformer_{start}")
               for start in ("transfer", "scratch"))),
      seeds=(0, 1, 2), metrics=("bleu", "chrf"), budget="converged")


def get_config(name: str = "lstm_parent") -> Run:
  """Returns the LSTM's parent, or a run of the study such as `lstm_transfer`."""
  kind, start = name.split("_")
  run = translation.get_config(
      "parent" if start == "parent" else f"{start}_{_SHARE}")
  if kind == "transformer":
    return run
  # Thrice what is chosen for a Transformer's width. With 0.003 an LSTM from scratch was
  # at a validation loss of 3.17 after 1,500 steps and still falling; with 0.01 it had
  # its lowest, 2.65, after 1,200.
  transfers = start == "transfer"
  source = Source(path=f"{_RUNS}/lstm_parent") if transfers else None
  optim = dataclasses.replace(run.optim, lr=0.003 if transfers else 0.01)
  return dataclasses.replace(run, model=_LSTM, source=source, optim=optim)
