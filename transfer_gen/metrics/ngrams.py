"""Metrics of the outputs alone: diversity, repetition, novelty. Words end at spaces."""

import collections
from collections.abc import Iterable, Sequence

from transfer_gen.metrics import measured as measured_lib

Measured = measured_lib.Measured
_SPAN = 4  # Words of the n-grams that repetition and novelty count.


def distinct(outputs: Sequence[str], size: int) -> Measured:
  """Measures distinct-n: different n-grams divided by all n-grams (Li et al., 2016).

  An n-gram counts for the documents that hold it in equal shares. The shares add up to
  the number of different n-grams, and let a part of the documents be scored: a
  bootstrap that counted anew would find fewer different n-grams, because it draws
  documents more than once.

  Args:
    outputs: One text for each document.
    size: Number of words of an n-gram.
  """
  found = [_ngrams(output, size) for output in outputs]
  holders = collections.Counter(ngram for ngrams in found for ngram in set(ngrams))
  shares = [sum(1 / holders[ngram] for ngram in set(ngrams)) for ngrams in found]
  return measured_lib.share(
      f"distinct{size}", shares, [len(ngrams) for ngrams in found], higher=True)


def repetition(outputs: Sequence[str]) -> Measured:
  """Measures seq-rep-4: repeated n-grams of four words (Welleck et al., 2020).

  It is the mean over outputs of 1 - different n-grams / all n-grams; outputs of fewer
  than four words are left out.
  """
  found = [_ngrams(output, _SPAN) for output in outputs]
  shares = [1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0 for ngrams in found]
  return measured_lib.share("repetition", shares, list(map(bool, found)), higher=False)


def novelty(outputs: Sequence[str], training: Iterable[str]) -> Measured:
  """Measures the share of n-grams of four words that no training text holds.

  It is low for a model that copies what it has read (McCoy et al., 2023).

  Args:
    outputs: One text for each document.
    training: The texts that the model learned to write. They are read once, and only
      n-grams of the outputs are held.
  """
  found = [_ngrams(output, _SPAN) for output in outputs]
  unseen = {ngram for ngrams in found for ngram in ngrams}
  for text in training:
    unseen.difference_update(_ngrams(text, _SPAN))
  return measured_lib.share(
      "novelty", [sum(ngram in unseen for ngram in ngrams) for ngrams in found],
      list(map(len, found)), higher=True)


# Words and not tokens, so that models with different tokenizers are measured alike.
# `zip` ends with its shortest part, so a text of too few words has no n-gram.
def _ngrams(text: str, size: int) -> list[tuple[str, ...]]:
  words = text.split()
  return list(zip(*(words[start:] for start in range(size))))
