"""Does a VAE of Omniglot's letters help to learn sheep, from 1% to 100% of them?

The model is that of sketch-rnn (Ha and Eck, 2018) at a quarter of its width. The source
learns 30,000 letters of 50 alphabets, as a pen drew them; the target is the data set of
7,400 sheep that came with sketch-rnn, of which 4,257 have at most 128 points; the
others are left out, so that every drawing has its end. Each data set is divided by the
standard deviation of its own offsets, and the runs of a pair read the same sheep, so
that their losses, in nats per step, can be compared. `reconstruction` and `kl` of each
run stand in its metrics.jsonl; docs/drawings.md says what they are in the paper.

Run:      python -m transfer_gen study --config=experiments/strokes.py \
            --workdir=runs/strokes --results=experiments/RESULTS.md
          It reads omniglot_strokes/omniglot_strokes.npz and
          sheep_strokes/sheep_strokes.npz in the folder `data`, or in the folder that
          the environment variable TRANSFER_GEN_DATA names.
Runs:     letters, the source; then scratch and moved on 1%, 10% and all of the training
          sheep, each with seeds 0, 1, 2. A run stops when 5 of its 20 validations in a
          row bring nothing better. Where the loss from scratch still fell at the end,
          it is trained again with twice, four and eight times the steps.
Cost:     76 minutes on one CPU core that other work shared, 46 of them for scratch with
          eight times the steps on all sheep.
Result:   With equal steps, the letters lower the test bound by 0.11 nats per step with
          1% of the sheep and by 0.13 with all (both better), and by 0.14 with 10%,
          where three seeds leave no clear difference. With 1%, scratch has all the
          steps that it can use. With 10% it overfits after twice its steps, and the
          difference shrinks to 0.03 (not clear). With all sheep the loss from scratch
          falls on: after eight times the steps it is 0.20 and still falling, where the
          moved run ended at 0.72. The gain of equal steps was one of time, and more
          steps bring four times as much. How far the moved run would come with as many
          steps was not tried. The report shows drawings of each run beside its losses.
"""

import os

from transfer_gen.config import (
    Corrupt,
    Data,
    Decoding,
    Objective,
    Optim,
    Run,
    Sketch,
    Source,
    Study,
    Term,
    Tokenizer,
    Train,
)

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
# Training steps by percentage of the training data.
_STEPS = {"1": 400, "10": 1000, "100": 2200}


def get_study() -> Study:
  """Returns the study, with one pair of runs for each share of the training data."""
  runs = {"letters": _run("omniglot_strokes/omniglot_strokes.npz", 64, 64, 1800)}
  for share, steps in _STEPS.items():
    for name, source in ((f"moved_{share}", Source(run="letters")),
                         (f"scratch_{share}", None)):
      runs[name] = _run("sheep_strokes/sheep_strokes.npz", 128, 32, steps,
                        fraction=int(share) / 100, source=source)
  return Study(
      question="Does a VAE of letters help to learn to draw sheep?", runs=runs,
      pairs=tuple((f"moved_{share}", f"scratch_{share}") for share in _STEPS),
      seeds=(0, 1, 2), budget="converged", samples=2)


def get_config(name: str = "moved_100") -> Run:
  """Returns one run of the study, to plan or train alone once its source has run."""
  run = get_study().runs[name]
  if run.source is not None:
    run.source = Source(path="runs/strokes/letters")
  return run


def _run(
    file: str, length: int, rows: int, steps: int, fraction: float = 1.0,
    source: Source | None = None) -> Run:
  return Run(
      model=Sketch(hidden_width=128, encoder_width=64, latent_width=32, mixtures=10),
      data=Data(name="files", train=f"{_FILES}/{file}", length=length,
                fraction=fraction, max_validation=300, max_test=300,
                corrupt=Corrupt(stretch=0.1, drop_points=0.1)),
      tokenizer=Tokenizer(kind="strokes"),
      objective=Objective(
          bivariate=Term(), kl=Term(schedule="linear", start=0.01,
                                    last_step=steps // 4), kl_min=0.05),
      optim=Optim(lr=2e-3, warmup_steps=20),
      train=Train(steps=steps, batch_size=rows, eval_every=steps // 20, log_every=50,
                  checkpoint_every=steps, patience=5),
      decoding=Decoding(temperature=0.3),
      source=source)
