"""Was it worth it, and could one have known? Pairs of four experiments in one study.

For each pair, the study measures what can be known before training (the loss of the
source as it is, overlap of vocabularies, alignment of gradients, LogME), trains both
runs, and says what the source brought. Over all pairs, rank correlations say which of
these measures to trust.

The pairs are those of quickstart.py and lstm_text.py, six strategies of strategies.py
on Shakespeare, and twelve languages: a small Transformer that translates names and
phrases of the Unicode CLDR from English to German begins models from English to each of
them, with a vocabulary of their own, and 5% of the phrases.

Language models read joined documents (`packing="joined"`), as in those experiments.

Run:      python -m transfer_gen study --config=experiments/worth_it.py \
            --workdir=runs/worth_it --results=experiments/RESULTS.md
          It reads tinyshakespeare/input.txt (github.com/karpathy/char-rnn) in the
          folder `data`, or in the folder that the environment variable
          TRANSFER_GEN_DATA names. Afterwards, `:languages` behind the config, with the
          same workdir, compares the languages alone, and trains nothing anew.
Runs:     three sources; 22 treated runs and 15 controls, each with seeds 0, 1, 2 and
          one learning rate. Both runs of a pair have equal steps, so that a gain is
          what users see who train as long as we did, and no bound for longer trainings.
Cost:     44 minutes on one CPU core that other work shared.
Result:   All 22 sources helped with equal steps. No measure foretells by how much: over
          all pairs none has a rank correlation with the gain that is clearly above 0,
          and that of the loss before training is clearly below (-0.63): where the
          source knew least, as of phrases, scratch knew less still. Over the languages
          alone, which have one source and one kind of text, that loss does foretell
          the gain (0.71). It ranks sources for one target, and not targets.
"""

import dataclasses
import os

from experiments import lstm_text
from experiments import quickstart
from experiments import strategies
from transfer_gen.config import (
    Data,
    EncoderDecoder,
    Optim,
    Run,
    Source,
    Study,
    Tokenizer,
    Train,
)
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

_RUNS = os.environ.get("TRANSFER_GEN_RUNS", "runs/worth_it")
_STRATEGIES = ("fine_tune", "feature_extraction", "discriminative",
               "gradual_unfreezing", "l2_sp", "lora")
# Germanic, Romance, Slavic (Cyrillic among them), Finno-Ugric and Turkic languages.
_LANGUAGES = ("nl", "sv", "da", "fr", "es", "it", "pl", "cs", "ru", "fi", "hu", "tr")


def get_study(part: str = "all") -> Study:
  """Returns the study of `all` pairs, or of those of `languages`."""
  shakespeare = strategies.get_study("shakespeare")
  shakespeare = dataclasses.replace(
      shakespeare, pairs=tuple((name, "scratch") for name in _STRATEGIES))
  parts = {"summaries": quickstart.get_study(), "lstm": lstm_text.get_study(),
           "shakespeare": shakespeare, "phrases": _phrases()}
  parts = {"all": parts, "languages": {"phrases": parts["phrases"]}}[part]
  runs: dict[str, Run] = {}
  pairs: list[tuple[str, str]] = []
  for prefix, study in parts.items():
    names = {}
    used = [*dict.fromkeys(name for pair in study.pairs for name in pair)]
    for name in ("source", *used):
      # A source that two parts have trains once.
      names[name] = next((other for other, run in runs.items()
                          if name == "source" and run == study.runs[name]),
                         f"{prefix}_{name}")
    for name in names:
      run = study.runs[name]
      if run.source is not None:
        run = dataclasses.replace(run, source=Source(run=names[run.source.run]))
      runs[names[name]] = run
    pairs += [(names[treated], names[control]) for treated, control in study.pairs]
  return Study(
      question="Was it worth it, and could one have known"
               + {"all": "?", "languages": ", of twelve languages?"}[part], runs=runs,
      pairs=tuple(pairs), seeds=(0, 1, 2), samples=1, accounts=True)


def get_config(name: str = "phrases_nl") -> Run:
  """Returns one run of the study, to plan or train alone once its source has run."""
  study = get_study()
  run = study.runs[name]
  if run.source is not None:
    run.source = Source(path=f"{_RUNS}/{run.source.run}")
  return run


def _phrases() -> Study:
  """Returns the study of the languages, with one pair for each of them."""
  runs = {"source": _translation("de", 1.0, 1500)}
  for language in _LANGUAGES:
    control = _translation(language, 0.05, 210)
    runs[f"scratch_{language}"] = control
    runs[language] = dataclasses.replace(
        control, source=Source(run="source"), transfer=TransferPlan(
            rules=(Rule(target="(.*)", source=r"\1", why="the same model"),),
            axes=(On(axis="vocab", map=MatchTokens()),),
            groups=(Group(name="all", params=".*"),)))
  return Study(question="", runs=runs, pairs=tuple(
      (language, f"scratch_{language}") for language in _LANGUAGES))


def _translation(language: str, fraction: float, steps: int) -> Run:
  return Run(
      model=EncoderDecoder(num_layers=2, width=128, mlp_width=512, num_heads=4,
                           position="rotary", dropout=0.1),
      data=Data(name=f"cldr_translation/en-{language}", input_field="en",
                target_field=language, length=32, buckets=(16,), fraction=fraction,
                max_validation=300, max_test=600),
      tokenizer=Tokenizer(kind="bpe", size=1024),
      optim=Optim(lr=1e-3, warmup_steps=50),
      train=Train(steps=steps, batch_size=32, eval_every=steps // 15,
                  log_every=steps // 15, checkpoint_every=steps))
