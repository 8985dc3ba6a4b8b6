"""Does `auto` find a good strategy on targets that its design never saw?

What `auto` tries was chosen after a look at the targets of strategies.py. Here are four
others, with three kinds of models and of sources:

    botchan   a tiny Llama of children's stories, to the lines of a novel, with a BPE
              vocabulary of its own (as in stories.py)
    names     ml5's LSTM of Charlotte Brontë's novels, to first names
    captions  the same LSTM, to captions of pictures in German
    phrases   a small Transformer that translates names and phrases of the Unicode CLDR
              from English to German, to English to Dutch, with 5% of the phrases (as in
              worth_it.py)

Each strategy that needs no further choice tries two learning rates, which is as many as
the search tries of each: the run's own and 0.3 of it. The search has the run's own.
All have equal steps, as the question is which of them is best, and not whether to
transfer; scratch may still improve with more.

Run:      python -m transfer_gen study --config=experiments/auto.py:botchan \
            --workdir=runs/auto_botchan --results=experiments/RESULTS.md
          Likewise `:names`, `:captions` and `:phrases`. They read stories260K/ and
          tokenizers/botchan.txt, see stories.py, ml5_charrnn/charlotte_bronte/, see
          bronte_to_shakespeare.py, names/names.txt (github.com/karpathy/makemore), and
          multi30k/, see translation.py, in the folder `data`, or in the folder that the
          environment variable TRANSFER_GEN_DATA names.
Runs:     scratch, five strategies and auto, each with seeds 0, 1, 2.
Cost:     32 minutes for `botchan`, 18 for `names`, 41 for `captions` and 37 for
          `phrases`, each on one CPU core that much other work shared.
Result:   On `names` and `captions`, `auto` took the first candidate of its list, plain
          fine-tuning, for 1.8 and 4.4 times the FLOPs of a run, most of them
          validations. On `captions` that is the best strategy, and on `names` LoRA is
          better, and scratch better than all. On `botchan`, with three of three seeds,
          and `phrases`, with two, it took `discriminative` with twice the rate, which
          no named strategy tried, for 1.8 times the FLOPs: better than fine-tuning by
          0.08 nats per token, and by 0.04, which is not clear. There it has the lowest
          loss of all.
"""

import dataclasses
import os

from experiments import stories
from experiments import worth_it
from transfer_gen.config import (
  Data,
  Optim,
  Recurrent,
  Run,
  Source,
  Strategy,
  Study,
  Tokenizer,
  Train,
)
from transfer_gen.study import from_run
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

_FILES = os.environ.get("TRANSFER_GEN_DATA", "data")
_NAMES = ("fine_tune", "feature_extraction", "discriminative", "gradual_unfreezing",
          "lora", "auto")
_SLOWER = 0.3  # The factor of the rates that the search tries.


def get_study(target: str = "botchan") -> Study:
  """Returns the study of one target."""
  phrases = worth_it.get_study("languages").runs
  question, run = {
      "botchan": ("of stories to a novel", _botchan()),
      "names": ("of novels to first names", _letters(
          f"{_FILES}/names/names.txt", 0.2)),
      "captions": ("of novels to captions in German", _letters(
          f"{_FILES}/multi30k/train.de.gz", 0.02)),
      "phrases": ("of German phrases to Dutch ones", dataclasses.replace(
          phrases["phrases_nl"], source=Source(run="source"))),
  }[target]
  return Study(
      question=f"Does auto find a good strategy, from a model {question}?",
      runs={**({"source": phrases["phrases_source"]} if target == "phrases" else {}),
            "scratch": from_run.scratch(run),
            **{name: dataclasses.replace(run, strategy=Strategy(
                name=name, lr_mult=_lora(run) if name == "lora" else 0.0))
               for name in _NAMES}},
      pairs=(*((name, "scratch") for name in _NAMES), ("auto", "fine_tune")),
      seeds=(0, 1, 2), lrs=(run.optim.lr, _SLOWER * run.optim.lr), widen=0, samples=1,
      accounts=True)


def get_config(target: str = "botchan") -> Run:
  """Returns the run of `auto` on one target, to train alone."""
  run = get_study(target).runs["auto"]
  if run.source.run:
    run.source = Source(path="runs/auto_phrases/source")
  return run


def _lora(run: Run) -> float:
  """The factor on LoRA's rate; the default of 10 would make 0.1 of an LSTM's 0.01."""
  return 2.0 if isinstance(run.model, Recurrent) else 0.0


def _botchan() -> Run:
  run = stories.get_config()
  return dataclasses.replace(run, train=dataclasses.replace(
      run.train, steps=160, eval_every=20, log_every=20, checkpoint_every=80))


def _letters(path: str, fraction: float) -> Run:
  return Run(
      model=Recurrent(cell="lstm", num_layers=2, embed_width=128, hidden_width=128),
      data=Data(name="files", train=path, unit="line", length=64,
                fraction=fraction),
      tokenizer=Tokenizer(kind="alphabet", path=path),
      optim=Optim(lr=1e-2, warmup_steps=20),
      train=Train(steps=160, batch_size=32, eval_every=20, log_every=20,
                  checkpoint_every=80),
      source=Source(path=f"{_FILES}/ml5_charrnn/charlotte_bronte"),
      transfer=TransferPlan(
          rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
          axes=(On(axis="vocab", map=MatchTokens()),),
          groups=(Group(name="all", params=".*"),)))
