"""Scores of a run on documents: losses, and metrics of the texts that it writes."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.metrics import measures
from transfer_gen.run import losses as losses_lib
from transfer_gen.run import trained as trained_lib
from transfer_gen.run import writing

_SUMMARY = 0.5  # Targets shorter than this share of their inputs are summaries.
# Losses in units that depend on the tokenizer, so other tokenizers cannot compare them.
_PER_TOKEN = ("loss", "perplexity", "token_accuracy")

Document = writing.Document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
  """What was measured of one run.

  Attributes:
    trained: The run.
    scores: Losses of each document; None if documents have no targets.
    left_out: Number of documents that were too long to have a loss.
    written: What the run wrote; None if no metric needs it.
    measured: The metrics, by name.
  """
  trained: trained_lib.Trained
  scores: losses_lib.Scores | None
  left_out: int
  written: writing.Written | None
  measured: dict[str, measures.Measured]


def default_metrics(
    documents: Sequence[Document], writes: bool = False) -> tuple[tuple[str, ...], str]:
  """Returns the metrics that suit documents beside losses, and why.

  They are ROUGE for summaries, and BLEU and chrF for other pairs. Pairs are summaries
  if their targets have fewer than half of the characters of their inputs. For texts of
  a language model there are none, unless it writes; then they are distinct-n and
  repetition.

  Args:
    documents: What is evaluated, at least one.
    writes: Whether texts are to be written in any case.
  """
  if not documents[0].input:
    return (("distinct", "repetition") if writes else ()), "texts of a language model"
  if not any(document.target for document in documents):
    return ("distinct", "repetition"), "inputs without references"
  sizes = [sum(len(getattr(document, side)) for document in documents)
           for side in ("input", "target")]
  if sizes[1] < _SUMMARY * sizes[0]:
    return ("rouge",), "targets are shorter than half of their inputs"
  return ("bleu", "chrf"), "pairs with targets about as long as their inputs"


def check_drawn(asked: Iterable[str], wanted: Sequence[str] = ()) -> None:
  """Refuses what looks at texts, for a run that draws.

  Args:
    asked: Names of metrics and groups.
    wanted: Flags for written texts.

  Raises:
    errors.UserError: If there are any but the loss.
  """
  if wrong := [*wanted, *(name for name in asked if name != "loss")]:
    raise errors.UserError(
        f"{', '.join(wrong)}: for texts, and this run draws. Its loss and the terms of"
        " it are all that is measured; `generate` makes pictures.")


def check_outputs(wanted: Sequence[str], asked: Sequence[str]) -> None:
  """Refuses flags for written texts where no metric needs any: none are written.

  Args:
    wanted: The flags, for the message.
    asked: Names of metrics and groups.

  Raises:
    errors.UserError: If there are such flags and no such metric.
  """
  if wanted and measures.OUTPUTS not in measures.needed(measures.names(asked)):
    raise errors.UserError(
        f"{', '.join(wanted)}: losses need no written texts. Add --metrics=..., e.g."
        " bleu, rouge or distinct.")


def evaluate(
    trained: trained_lib.Trained, documents: Sequence[Document],
    asked: Iterable[str], decoding: config_lib.Decoding,
    training: Iterable[str] = (),
) -> Evaluated:
  """Measures a run on documents.

  Args:
    trained: The run.
    documents: Pairs if the run was trained on pairs, and else texts.
    asked: Names of metrics and groups beside losses, which are measured wherever
      documents have targets.
    decoding: How the run writes texts.
    training: The texts that it learned to write, for the metric `novelty`.

  Raises:
    errors.UserError: If a metric is unknown or has nothing to compare with, or an input
      cannot be read.
  """
  losses = ("losses",) if all(document.target for document in documents) else ()
  if trained.is_drawn:
    losses = ("loss",)
    check_drawn(asked)
  chosen = measures.names((*losses, *asked))
  needs = measures.needed(chosen)
  if needs & {measures.LOSSES, measures.HITS} and not losses:
    raise errors.UserError(
        "Losses need targets, and these documents are inputs alone. Give --data with"
        " targets, or choose metrics without: distinct, repetition, novelty.")
  written = (writing.write(trained.texts, documents, decoding)
             if measures.OUTPUTS in needs else None)
  evidence: dict[str, Any] = {} if written is None else {
      "outputs": written.outputs, "references": written.references,
      "training": training}
  scores, left_out = None, 0
  if losses:
    scores, hits = losses_lib.score(trained, documents, measures.HITS in needs)
    evidence |= {
        "nats": scores.nats, "tokens": scores.tokens, "text_bytes": scores.text_bytes,
        "targets": [document.target for document in documents], "hits": hits}
    left_out = int((scores.tokens == 0).sum())
  return Evaluated(
      trained=trained, scores=scores, left_out=left_out, written=written,
      measured=measures.measure(chosen, measures.Evidence(**evidence)))


def comparable(first: Evaluated, second: Evaluated) -> dict[str, tuple[Any, Any]]:
  """Returns the metrics that two runs can be compared by, of both, by name.

  Losses per token are left out if the tokenizers differ. Documents that were too long
  for one of the runs do not count for the other either.

  Raises:
    errors.UserError: If the runs wrote texts for other documents.
  """
  same = _vocabulary(first) == _vocabulary(second)
  if first.written and second.written and first.written.inputs != second.written.inputs:
    raise errors.UserError(
        f"{first.trained.workdir} and {second.trained.workdir} read the inputs"
        " differently, because their data.normalize or data.newline differ. Compare"
        " runs that clean texts alike.")
  found = {}
  for name in first.measured:
    if name in second.measured and (same or name not in _PER_TOKEN):
      pair = [first.measured[name], second.measured[name]]
      if measures.METRICS[name].needs in (measures.LOSSES, measures.HITS):
        assert first.scores is not None and second.scores is not None
        both = (first.scores.tokens > 0) & (second.scores.tokens > 0)
        pair = [one.with_statistics(one.statistics * both[:, None]) for one in pair]
      found[name] = (pair[0], pair[1])
  return found


# Compared by content, because each run loads an object of its own. Densities of
# drawings depend on their scale as losses per token do on tokens.
def _vocabulary(evaluated: Evaluated) -> tuple[Any, ...]:
  tokenizer = evaluated.trained.tokenizer
  return (tuple(tokenizer.tokens), dict(tokenizer.roles),
          getattr(tokenizer, "facts", None))
