"""Which strategy of learning from a source is worth its cost, and what does it forget?

The study compares training from scratch with the strategies that need no further
choice, and with `auto`, which searches among learning rates, layers and low-rank
adapters within as many steps as one run has.

Language models read joined documents (`packing="joined"`), as when the results were
made.

Run:      python -m transfer_gen study --config=experiments/strategies.py:summaries \
            --workdir=runs/strategies_summaries --results=experiments/RESULTS.md
          Likewise `:shakespeare`, with the same source, and `:bronte`, with ml5's
          LSTM as the source. The last two read tinyshakespeare/input.txt
          (github.com/karpathy/char-rnn) and ml5_charrnn/charlotte_bronte/
          (github.com/ml5js/ml5-data-and-models) in the folder `data`, or in the folder
          that the environment variable TRANSFER_GEN_DATA names.
Runs:     source (a Decoder of Python's prose; for `bronte`, the LSTM as it is);
          scratch, the seven strategies and auto, each with seeds 0, 1, 2.
Cost:     on 2 CPU cores beside other work, `summaries` took about 65 minutes,
          `shakespeare` 30 and `bronte` 28; a third of that goes into distilling from a
          teacher with another vocabulary.
Result:   experiments/RESULTS.md.
"""

import dataclasses
import os

from transfer_gen.config import (
  Data,
  Decoder,
  Optim,
  Recurrent,
  Run,
  Source,
  Strategy,
  Study,
  Tokenizer,
  Train,
)

_NAMES = ("fine_tune", "feature_extraction", "discriminative", "gradual_unfreezing",
          "l2_sp", "lora", "distill", "auto")
_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
_SHAKESPEARE = f"{_FILES}/tinyshakespeare/input.txt"
# Factor on the learning rate of LoRA. Its default of 10 would make 0.1 of the LSTM's
# 0.01, which is too much.
_LORA = {"bronte": 2.0}
_PROSE = Data(name="python_docs", length=128, packing="joined")


def get_study(arg: str = "summaries") -> Study:
  """Returns the study of one target: `summaries`, `shakespeare` or `bronte`."""
  question, target, source, remembered = {
      "summaries": ("Python's prose to summaries of docstrings", _summaries(),
                    _source(), _PROSE),
      "shakespeare": ("Python's prose to Shakespeare", _shakespeare(), _source(),
                      _PROSE),
      "bronte": ("Brontë's novels to Shakespeare, letter by letter", _letters(), None,
                 None),
  }[arg]
  moved = dataclasses.replace(target, source=Source(run="source") if source else (
      Source(path=f"{_FILES}/ml5_charrnn/charlotte_bronte")))
  return Study(
      question=f"Which strategy is worth it, from {question}?",
      runs={**({"source": source} if source else {}), "scratch": target,
            **{name: dataclasses.replace(moved, strategy=Strategy(
                name=name, lr_mult=_LORA.get(arg, 0.0) if name == "lora" else 0.0))
               for name in _NAMES}},
      pairs=tuple((name, "scratch") for name in _NAMES),
      seeds=(0, 1, 2), samples=1, accounts=True, remembered=remembered,
      budget="converged")


def get_config(arg: str = "summaries") -> Run:
  """Returns the run of `auto` on one target, to train alone.

  `summaries` and `shakespeare` need the source that the study of `summaries` trains.
  """
  run = get_study(arg).runs["auto"]
  if run.source.run:
    run.source = Source(path="runs/strategies_summaries/source")
  return run


def _source() -> Run:
  return Run(
      model=_decoder(0.0), data=_PROSE, tokenizer=Tokenizer(kind="bpe", size=2048),
      optim=Optim(lr=3e-3, warmup_steps=50),
      train=Train(steps=550, batch_size=16, eval_every=275, log_every=50,
                  checkpoint_every=275))


def _decoder(dropout: float) -> Decoder:
  return Decoder(num_layers=4, width=128, num_heads=4, max_length=256, dropout=dropout)


def _summaries() -> Run:
  return Run(
      model=_decoder(0.1),
      data=Data(name="docstring_summary", input_field="body", target_field="summary",
                length=160, buckets=(64, 96, 128), fraction=0.3),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=1e-3, warmup_steps=20), train=_train(240, 16))


def _shakespeare() -> Run:
  return Run(
      model=_decoder(0.1),
      data=Data(name="files", train=_SHAKESPEARE, unit="paragraph", length=128,
                packing="joined", fraction=0.1),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=1e-3, warmup_steps=20), train=_train(120, 8))


def _letters() -> Run:
  return Run(
      model=Recurrent(cell="lstm", num_layers=2, embed_width=128, hidden_width=128),
      data=Data(name="files", train=_SHAKESPEARE, unit="paragraph", newline="keep",
                packing="joined", fraction=0.1),
      tokenizer=Tokenizer(kind="alphabet", path=_SHAKESPEARE),
      optim=Optim(lr=1e-2, warmup_steps=20), train=_train(240, 32))


def _train(steps: int, batch_size: int) -> Train:
  return Train(steps=steps, batch_size=batch_size, eval_every=30, log_every=30,
               checkpoint_every=120)
