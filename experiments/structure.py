"""How much do names, width, depth and vocabulary help a model larger than its source?

A source with 4 layers of width 128, a language model of `python_docs`, becomes a target
with 8 layers of width 256 and another vocabulary, which summarises docstrings. How many
steps does the target take to reach the loss that it reaches from scratch?

Language models read joined documents (`packing="joined"`), as when the results were
made.

Run:      python -m transfer_gen study --config=experiments/structure.py \
            --workdir=runs/structure
Runs:     source; then
            scratch  every leaf starts fresh
            names    layers 0 to 3 come from the source's, tokens are matched; each leaf
                     fills a corner of the larger one, and the rest starts fresh
            width    the same layers, grown so that each computes what it did
            depth    all eight layers come from the source's four, each in its corner
            all      width and depth: the target starts as the source's function
Cost:     35 minutes on 2 CPU cores (3 seeds). The learning rate is the one that the
          quickstart's full study chose for both scratch and transfer. With seed 0,
          scratch at 3e-4 had a validation loss of 5.048 against 5.085.
Result:   experiments/RESULTS.md.
"""

import dataclasses

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
from transfer_gen.transfer import structure
from transfer_gen.transfer.axes import Extend, MatchTokens
from transfer_gen.transfer.plan import On, Rule, TransferPlan

_SMALL = Decoder(num_layers=4, width=128, num_heads=4, max_length=256)
_VOCAB = On(axis="vocab", map=MatchTokens())
# Without noise, the copies of a unit would start with equal gradients.
_LARGE, _GROWN = structure.grow(
    _SMALL, width=256, num_heads=8, mlp_width=1024, num_layers=8, noise=0.5,
    axes=(_VOCAB,))
_WIDTH = _GROWN.axes
# The source fills a corner of each larger leaf, and the rest is initialized.
_CORNER = (_VOCAB, *(On(axis=axis, map=Extend(fresh="init"))
                     for axis in ("embed", "mlp", "heads", "kv_heads")))
_ALL = (Rule(target="(.*)", source=r"\1"),)
_FIRST = structure.depth({**{i: i for i in range(4)}, **dict.fromkeys(range(4, 8))})
_REPEATED = structure.depth(structure.layer_map(4, 8, "repeat"))


def get_study() -> Study:
  """Returns the study of five ways to start the same target."""
  plan = lambda rules, axes: TransferPlan(
      rules=(*rules, *_ALL), axes=axes, groups=_GROWN.groups)
  return Study(
      question="What do names, width and depth bring to a model that outgrows its"
               " source?",
      runs={
          "source": _source(),
          "scratch": _target(None),
          "names": _target(plan(_FIRST, _CORNER)),
          "width": _target(plan(_FIRST, _WIDTH)),
          "depth": _target(plan(_REPEATED, _CORNER)),
          "all": _target(_GROWN),
      },
      pairs=tuple((name, "scratch") for name in ("all", "width", "depth", "names")),
      seeds=(0, 1, 2), lrs=(1e-3, 3e-3), budget="converged")


def get_config(name: str = "all") -> Run:
  """Returns one run of the study, to plan or train alone once its source has run."""
  run = get_study().runs[name]
  if run.source is not None:
    run.source = Source(path="runs/structure/source")
  return run


def _source() -> Run:
  return Run(
      model=dataclasses.replace(_SMALL),
      data=Data(name="python_docs", length=128, packing="joined"),
      tokenizer=Tokenizer(kind="bpe", size=2048),
      optim=Optim(lr=3e-3, warmup_steps=50),
      train=Train(steps=550, batch_size=16, eval_every=275, log_every=50,
                  checkpoint_every=275))


def _target(plan: TransferPlan | None) -> Run:
  return Run(
      model=dataclasses.replace(_LARGE, dropout=0.1),
      data=Data(name="docstring_summary", input_field="body",
                target_field="summary", length=160, buckets=(64, 96, 128)),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=1e-3, warmup_steps=20),
      train=Train(steps=300, batch_size=8, eval_every=10, log_every=50,
                  checkpoint_every=300),
      source=Source(run="source") if plan else None,
      transfer=plan)
