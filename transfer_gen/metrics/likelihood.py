"""Metrics of the probability that a model gives to texts.

Axes: N documents.
"""

from collections.abc import Sequence
import math

import numpy as np

from transfer_gen.metrics import measured as measured_lib

Measured = measured_lib.Measured


def loss(nats: np.ndarray, tokens: np.ndarray) -> Measured:
  """Measures nats per token of the targets; lower is better.

  Args:
    nats: f64[N], negative log-likelihood of each document's target.
    tokens: i64[N], its tokens that were scored.
  """
  return measured_lib.share("loss", nats, tokens, higher=False)


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> Measured:
  """Measures the perplexity per token, exp(loss); arguments as of `loss`."""
  return _perplexity("perplexity", nats, tokens)


def word_perplexity(
    nats: np.ndarray, tokens: np.ndarray, targets: Sequence[str]) -> Measured:
  """Measures the perplexity per word, which runs with any tokenizers can compare.

  Args:
    nats: f64[N], as of `loss`.
    tokens: i64[N], as of `loss`; words of a target without scored tokens do not count.
    targets: The texts, N of them. Words end at white space.
  """
  words = np.array([len(target.split()) for target in targets]) * (tokens > 0)
  return _perplexity("word_perplexity", nats, words)


def bits_per_byte(
    nats: np.ndarray, tokens: np.ndarray, text_bytes: np.ndarray) -> Measured:
  """Measures bits per byte of UTF-8, which runs with any tokenizers can compare.

  Args:
    nats: f64[N], as of `loss`.
    tokens: i64[N], as of `loss`; bytes of a target without scored tokens do not count.
    text_bytes: i64[N], UTF-8 bytes of each target.
  """
  return measured_lib.share(
      "bits_per_byte", nats / math.log(2), text_bytes * (tokens > 0), higher=False)


def token_accuracy(hits: np.ndarray, tokens: np.ndarray) -> Measured:
  """Measures the share of target tokens that the model holds for the likeliest.

  Args:
    hits: f64[N], number of such tokens of each document, given all tokens before.
    tokens: i64[N], as of `loss`.
  """
  return measured_lib.share("token_accuracy", hits, tokens, higher=True)


# The statistics stay sums of nats, so that a sample averages losses before it takes
# exp. A mean of perplexities would be ruled by the few worst documents.
def _perplexity(name: str, nats: np.ndarray, counts: np.ndarray) -> Measured:
  found = measured_lib.share(name, nats, counts, higher=False)
  return Measured(
      name=name, statistics=found.statistics, higher=False,
      # A model that has learned nothing may exceed what a float can hold.
      value=lambda sums: np.exp(np.minimum(measured_lib.ratio(sums), 700.0)))
