"""Metrics that compare outputs with references: BLEU, chrF, TER, ROUGE, exact match.

sacreBLEU and rouge-score compute them, so scores equal those of their command lines.
"""

from collections.abc import Sequence
import importlib.metadata
import itertools
import logging

import numpy as np
import sacrebleu.metrics
from sacrebleu.metrics import base

from transfer_gen.metrics import measured as measured_lib

Measured = measured_lib.Measured
References = Sequence[Sequence[str]]  # Of each document, at least one.


class _Once(logging.Filter):
  """Lets each line of code say something once.

  A run that is validated by BLEU measures it again and again, and would repeat notes on
  its texts each time.
  """

  def __init__(self):
    super().__init__()
    self._said: set[tuple[str, int]] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    """Whether nothing was said there before."""
    place = record.pathname, record.lineno
    if place in self._said:
      return False
    self._said.add(place)
    return True


logging.getLogger("sacrebleu").addFilter(_Once())


def bleu(
    outputs: Sequence[str], references: References, tokenize: str = "13a"
) -> Measured:
  """Measures BLEU, from 0 to 100 (Papineni et al., 2002; Post, 2018).

  Args:
    outputs: One text for each document.
    references: One text or more for each document.
    tokenize: How sacreBLEU divides texts into words: `13a` suits most languages, `zh`
      Chinese, `intl` any language by Unicode classes, `char` takes characters.
  """
  return _sacrebleu(
      "bleu", sacrebleu.metrics.BLEU(tokenize=tokenize), outputs, references)


def chrf(
    outputs: Sequence[str], references: References, word_order: int = 0) -> Measured:
  """Measures chrF2, from 0 to 100 (Popović, 2015).

  Args:
    outputs: One text for each document.
    references: One text or more for each document.
    word_order: Largest number of words of an n-gram that counts beside characters; 2
      is chrF++ (Popović, 2017).
  """
  return _sacrebleu(
      "chrf", sacrebleu.metrics.CHRF(word_order=word_order), outputs, references)


def ter(outputs: Sequence[str], references: References) -> Measured:
  """Measures the translation edit rate in percent; lower is better (Snover, 2006)."""
  return _sacrebleu("ter", sacrebleu.metrics.TER(), outputs, references, higher=False)


def rouge(
    outputs: Sequence[str], references: References, kind: str = "rougeL") -> Measured:
  """Measures the mean F-measure of ROUGE, from 0 to 1 (Lin, 2004), without stemming.

  Of several references, the one with the highest F-measure counts.

  Args:
    outputs: One text for each document.
    references: One text or more for each document.
    kind: `rouge1`, `rouge2`, `rougeL` or `rougeLsum`, which takes lines as sentences.
  """
  # Here, since it takes two seconds to import: it reads nltk, and nltk reads SciPy.
  from rouge_score import rouge_scorer
  # The stemmer that rouge-score offers is Porter's, which knows English alone.
  scorer = rouge_scorer.RougeScorer([kind], use_stemmer=False)
  scores = [scorer.score_multi(found, output)[kind].fmeasure
            for output, found in zip(outputs, references, strict=True)]
  version = importlib.metadata.version("rouge-score")
  return measured_lib.share(
      kind, scores, np.ones(len(scores)), higher=True,
      signature=f"nrefs:{_counted(references)}|stemmer:no|version:{version}")


def exact_match(outputs: Sequence[str], references: References) -> Measured:
  """Measures the share of outputs that equal a reference, with white space folded."""
  fold = lambda text: " ".join(text.split())
  equal = [fold(output) in map(fold, found)
           for output, found in zip(outputs, references, strict=True)]
  return measured_lib.share("exact_match", equal, np.ones(len(equal)), higher=True)


def _sacrebleu(
    name: str, metric: base.Metric, outputs: Sequence[str], references: References,
    higher: bool = True) -> Measured:
  """Returns the statistics that a metric of sacreBLEU counts in each document."""
  # sacreBLEU takes the first references of all documents, then the second ones, and
  # None where a document has no further one.
  columns = list(itertools.zip_longest(*references))
  # These two methods have an underscore, but every metric of sacreBLEU is defined by
  # them, and its own significance tests call them from outside. The public ones would
  # count all n-grams again for each sample of the bootstrap.
  statistics = metric._extract_corpus_statistics(outputs, columns)
  value = lambda sums: np.array(
      [metric._compute_score_from_stats(row).score for row in sums.tolist()])
  # sacreBLEU's intervals add up float32, which holds all whole numbers up to 2**24.
  return Measured(
      name=name, statistics=np.array(statistics, np.float64), value=value,
      higher=higher, signature=str(metric.get_signature()))


def _counted(references: References) -> str:
  """Returns the number of references in the spelling of sacreBLEU."""
  counts = {len(found) for found in references}
  return str(counts.pop()) if len(counts) == 1 else "var"
