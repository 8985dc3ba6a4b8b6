"""The loss over a split, document by document."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any, Protocol

import jax
import numpy as np

from transfer_gen import global_arrays
from transfer_gen.data import pipeline
from transfer_gen.train import step as step_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """Sums over each document of a split.

  Attributes:
    nats: f64[N], negative log-likelihood of the target tokens of each document.
    tokens: i64[N], number of those tokens.
    text_bytes: i64[N], UTF-8 bytes of the target text.
    terms: Further terms of the loss by name, per target token.
  """
  nats: np.ndarray
  tokens: np.ndarray
  text_bytes: np.ndarray
  terms: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def metrics(self) -> dict[str, float]:
    """Returns the loss in nats per token, bits per byte, perplexity, counts, terms."""
    total, count = float(self.nats.sum()), int(self.tokens.sum())
    text_bytes = int(self.text_bytes[self.tokens > 0].sum())
    # Every token weighs the same, as in training: a mean over documents would give
    # tokens of short documents more weight. Bits per byte are comparable between runs
    # with different tokenizers. Bytes of documents without scored tokens do not count.
    # What is no text, such as a drawing, has no bytes, and densities and no
    # probabilities.
    of_text = {
        "bits_per_byte": total / math.log(2) / max(text_bytes, 1),
        # exp overflows a float just above 709; a diverged run must still report.
        "perplexity": math.exp(min(total / max(count, 1), 700.0))}
    return {
        "loss": total / max(count, 1), **(of_text if self.of_text else {}),
        "tokens": count, "documents": int((self.tokens > 0).sum()), **self.terms,
    }

  @property
  def of_text(self) -> bool:
    """Whether the documents are texts, which have bytes."""
    return bool(self.text_bytes.any())

  @property
  def across_tokens(self) -> float:
    """Bits per byte, which compare across tokenizers; of what is no text, the loss."""
    return self.metrics()["bits_per_byte" if self.of_text else "loss"]


class Scorer(Protocol):
  """Scores params on a split of a data set."""

  def __call__(
      self, params: Mapping[str, jax.Array], data: pipeline.Prepared, split: str,
      batch_size: pipeline.BatchSize, put: Callable[[Any], Any] = lambda batch: batch,
      advance: Callable[[int], object] = lambda rows: None,
  ) -> Scores:
    """Returns the sums over each document.

    Args:
      params: Flat params.
      data: Tokenized splits.
      split: Name of the split.
      batch_size: Number of rows per batch, B.
      put: Places a batch on devices. By default JAX does so when it is used.
      advance: Called after each batch with the number of rows that were scored.
    """
    ...


@functools.lru_cache(maxsize=32)  # A study scores each of its models several times.
def make_scorer(nll_fn: step_lib.NllFn) -> Scorer:
  """Returns a function that scores params; its program is compiled once.

  Args:
    nll_fn: Loss without dropout; it receives a fixed key, from which only a latent may
      draw, and the same for a text wherever it stands. Of several terms by name, `loss`
      is that of the documents, in nats. Calls with the same function return the same
      scorer.
  """
  key = jax.random.key(0)
  nll = jax.jit(lambda params, batch: nll_fn(params, batch, key))

  def score(
      params: Mapping[str, jax.Array], data: pipeline.Prepared, split: str,
      batch_size: pipeline.BatchSize, put: Callable[[Any], Any] = lambda batch: batch,
      advance: Callable[[int], object] = lambda rows: None,
  ) -> Scores:
    text_bytes = data.document_bytes(split)
    size = len(text_bytes)
    nats, tokens = np.zeros(size), np.zeros(size, np.int64)
    totals: dict[str, float] = {}
    for batch in data.evaluation_batches(split, batch_size):
      documents = batch.pop("documents")
      counted = documents >= 0
      # Sums are in float64: over millions of tokens float32 would lose digits.
      found = nll(params, put(batch))
      found = {name: global_arrays.whole(term) for name, term in (
          found if isinstance(found, Mapping) else {"loss": found}).items()}
      values = np.asarray(found.pop("loss"), np.float64)
      nats += np.bincount(documents[counted], values[counted], size)
      for name, term in found.items():
        total = np.asarray(term, np.float64)[counted].sum()
        totals[name] = totals.get(name, 0.0) + float(total)
      tokens += np.bincount(documents[counted], minlength=size)
      advance(int(counted.any(1).sum()))  # Without the rows that fill a batch up.
    return Scores(
        nats=nats, tokens=tokens, text_bytes=text_bytes,
        terms={name: total / max(int(tokens.sum()), 1)
               for name, total in totals.items()})

  return score
