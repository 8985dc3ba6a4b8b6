"""Metrics by name: what each needs, which direction is better, and how it is computed.

Axes: N documents with losses, M documents with outputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
import functools

import numpy as np

from transfer_gen import errors
from transfer_gen.metrics import likelihood
from transfer_gen.metrics import measured as measured_lib
from transfer_gen.metrics import ngrams
from transfer_gen.metrics import overlap

Measured = measured_lib.Measured
# Hits are apart from losses, because they take a second pass over the documents.
LOSSES, HITS = "losses", "hits"
OUTPUTS, REFERENCES, TRAINING = "outputs", "references", "training"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
  """What metrics look at. What no chosen metric needs may be left out.

  Attributes:
    nats: f64[N], negative log-likelihood of each target.
    tokens: i64[N], tokens of each target that were scored.
    text_bytes: i64[N], UTF-8 bytes of each target.
    targets: N texts.
    hits: f64[N], target tokens that the model held for the likeliest.
    outputs: M texts that the model wrote.
    references: For each output, the texts that it is compared with.
    training: The texts that the model learned to write; they are read once.
  """
  nats: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
  tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
  text_bytes: np.ndarray = dataclasses.field(
      default_factory=lambda: np.zeros(0, np.int64))
  targets: Sequence[str] = ()
  hits: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
  outputs: Sequence[str] = ()
  references: Sequence[Sequence[str]] = ()
  training: Iterable[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
  """One metric.

  Attributes:
    needs: What it looks at: `LOSSES` of targets; `HITS`, tokens of targets that were
      the likeliest; `OUTPUTS`; `REFERENCES` beside outputs; or `TRAINING`, the texts
      of training beside outputs.
    measure: Measures it.
    higher: Whether a higher score is better.
    digits: Digits behind the point that are shown.
  """
  needs: str
  measure: Callable[[Evidence], Measured]
  higher: bool = True
  digits: int = 4


# Above the table and not below it, because it is called while the module is imported.
def _compared(
    measure: Callable[..., Measured], digits: int = 4, higher: bool = True,
    **form: object
) -> Metric:
  """Returns a metric that compares outputs with references."""
  return Metric(
      needs=REFERENCES, digits=digits, higher=higher,
      measure=lambda e: measure(e.outputs, e.references, **form))


# sacreBLEU prints two digits of its scores, which are out of 100.
METRICS: Mapping[str, Metric] = {
    "loss": Metric(
        needs=LOSSES, higher=False,
        measure=lambda e: likelihood.loss(e.nats, e.tokens)),
    "perplexity": Metric(
        needs=LOSSES, higher=False, digits=3,
        measure=lambda e: likelihood.perplexity(e.nats, e.tokens)),
    "word_perplexity": Metric(
        needs=LOSSES, higher=False, digits=3,
        measure=lambda e: likelihood.word_perplexity(e.nats, e.tokens, e.targets)),
    "bits_per_byte": Metric(
        needs=LOSSES, higher=False,
        measure=lambda e: likelihood.bits_per_byte(e.nats, e.tokens, e.text_bytes)),
    "token_accuracy": Metric(
        needs=HITS, measure=lambda e: likelihood.token_accuracy(e.hits, e.tokens)),
    "bleu": _compared(overlap.bleu, digits=2),
    "bleu_intl": _compared(overlap.bleu, digits=2, tokenize="intl"),
    "bleu_zh": _compared(overlap.bleu, digits=2, tokenize="zh"),
    "bleu_char": _compared(overlap.bleu, digits=2, tokenize="char"),
    "chrf": _compared(overlap.chrf, digits=2),
    "chrf++": _compared(overlap.chrf, digits=2, word_order=2),
    "ter": _compared(overlap.ter, digits=2, higher=False),
    **{kind: _compared(overlap.rouge, kind=kind)
       for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "exact_match": _compared(overlap.exact_match),
    # `partial` binds each size now. A lambda alone would look `size` up when it is
    # called, and both metrics would count the last one.
    **{f"distinct{size}": Metric(
        needs=OUTPUTS,
        measure=functools.partial(lambda e, n: ngrams.distinct(e.outputs, n), n=size))
       for size in (1, 2)},
    "repetition": Metric(
        needs=OUTPUTS, higher=False, measure=lambda e: ngrams.repetition(e.outputs)),
    "novelty": Metric(
        needs=TRAINING, measure=lambda e: ngrams.novelty(e.outputs, e.training)),
}
# Names that stand for several metrics.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "losses": ("loss", "bits_per_byte", "perplexity", "word_perplexity"),
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    "distinct": ("distinct1", "distinct2"),
}


def names(asked: Iterable[str]) -> tuple[str, ...]:
  """Returns the metrics that names of metrics and groups stand for, each once.

  Raises:
    errors.UserError: If a name is unknown; offers the nearest one.

  Example:
    >>> from transfer_gen.metrics import measures
    >>> measures.names(["bleu", "distinct", "bleu"])
    ('bleu', 'distinct1', 'distinct2')
  """
  found: list[str] = []
  for name in asked:
    if name not in METRICS and name not in GROUPS:
      known = [*METRICS, *GROUPS]
      near = difflib.get_close_matches(name, known, 1)
      raise errors.UserError(
          f"{name!r} is not a metric."
          + (f" Did you mean {near[0]!r}?" if near else "")
          + f" The metrics are {', '.join(METRICS)}; {', '.join(GROUPS)} stand for"
          " several.")
    found += GROUPS.get(name, (name,))
  # Not a set, which would lose the order in which a user asked for them.
  return tuple(dict.fromkeys(found))


def needed(chosen: Iterable[str]) -> frozenset[str]:
  """Returns what some metrics look at together, see `Metric.needs`."""
  needs = {METRICS[name].needs for name in chosen}
  if needs & {REFERENCES, TRAINING}:
    needs.add(OUTPUTS)
  return frozenset(needs)


def measure(chosen: Sequence[str], evidence: Evidence) -> dict[str, Measured]:
  """Measures metrics.

  Args:
    chosen: Names of metrics, as `names` returns them.
    evidence: All that they need.

  Raises:
    errors.UserError: If a metric compares with references and a document has none.
  """
  compared = [name for name in chosen if METRICS[name].needs == REFERENCES]
  bare = [i for i, found in enumerate(evidence.references) if not any(found)]
  if compared and (bare or not evidence.references):
    where = (f"{len(bare)} of {len(evidence.references)} documents have none, the first"
             f" being number {bare[0] + 1}" if bare else "there are none")
    raise errors.UserError(
        f"{', '.join(compared)}: compared with references, but {where}. Give --data"
        " with references, or choose metrics without: distinct, repetition, novelty.")
  # One function measures several metrics, such as all kinds of BLEU, under one name.
  return {name: dataclasses.replace(METRICS[name].measure(evidence), name=name)
          for name in chosen}


def shown(name: str, score: float) -> str:
  """Returns a score as people read it, with the digits that its library prints."""
  return f"{score:.{METRICS[name].digits}f}"
