"""Turns documents into batches of tokens, with a position that a checkpoint can hold.

Axes: B rows, T positions, N rows or documents of a split, V vocabulary.

Rows are in memory, with 12 bytes per position for pairs, and 16 if the model has an
encoder or rows are packed; 8 for joined texts. Those of large data are in files, see
`stored_rows`. A batch is one gather from either, which is far faster than any training
step. Therefore Grain runs in this process, without worker processes, and nothing has to
be closed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, Protocol

import grain
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.data import encoding as encoding_lib
from transfer_gen.data import mixing
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import stored_rows
from transfer_gen.data import tokenizers

Batch, Document = rows_lib.Batch, stored_rows.Document
Encoding = encoding_lib.Encoding
# B, the number of rows of a batch; or a function of T, where it differs by length.
BatchSize = int | Callable[[int], int]
# From B to the rows of a batch that are wanted, as an index of it.
Pick = Callable[[int], Any]
_NO_ROWS = np.zeros((0, 0), np.int64)  # `Prepared._counts` without a training split.


def all_rows(batch_size: int) -> slice:
  """Returns the index of all rows of a batch; see `Pick`."""
  del batch_size
  return slice(None)


class Batches(Protocol):
  """An endless iterator of batches with a position."""

  def __next__(self) -> Batch:
    """Returns the next batch."""
    ...

  def get_state(self) -> dict[str, Any]:
    """Returns the position, as values that JSON can hold."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues after the batch that was the last one when `state` was taken."""
    ...


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Tokenized data, laid out in rows.

  Attributes:
    tokenizer: The tokenizer that the token ids belong to.
    roles: Ids of pad, bos, eos and sep, including stand-ins (see
      `tokenizers.resolve_roles`).
    lengths: All values of T that batches can have, ascending.
    token_counts: i64[V], number of occurrences of each token in the kept texts of the
      training split. Special tokens, which the rows add, are not counted.
    encoder_token_counts: The same for the inputs, if their ids are of another tokenizer
      (see `tokenizers.own_encoder`), which `token_counts` then leaves out.
    facts: The facts for data.json: those of the documents, `tokenizer`, and by split
      `rows` by length, `tokens` (number of targets that count), `unknown_tokens`,
      `bytes` of the targets, `cut` (number of pairs that were cut), and `kept` and
      `dropped` with `too_many_tokens`.
  """
  tokenizer: tokenizers.Tokenizer
  roles: Mapping[str, int]
  lengths: tuple[int, ...]
  token_counts: np.ndarray
  encoder_token_counts: np.ndarray
  facts: dict[str, Any]
  _rows: Mapping[str, Sequence[Any]]  # `rows.Rows` or `stored_rows.Stored`.
  _bytes: Mapping[str, Callable[[], np.ndarray]]
  _counts: np.ndarray  # i64[lengths, parts], number of training rows.
  _noise: mixing.Noise | None = None  # Of training.

  @property
  def encoder_tokenizer(self) -> tokenizers.Tokenizer | None:
    """Tokenizer of the inputs, if its ids are its own; see `tokenizers.own_encoder`."""
    return tokenizers.own_encoder(self.tokenizer)

  def train_batches(
      self, batch_size: BatchSize, seed: int, pick: Pick = all_rows) -> Batches:
    """Returns endless batches of the training split, reshuffled in each epoch.

    All rows of a batch are from one bucket. Buckets alternate in proportion to their
    numbers of batches. A batch may span the end of an epoch, so no row is left out. The
    parts of a mixture have epochs of their own, and their shares of the rows. With
    `corrupt` each row is corrupted anew in each epoch, see `noise`.

    Args:
      batch_size: B.
      seed: Seed of the order, and of noise.
      pick: Which rows of each batch are read. Of several processes each reads those
        that its devices compute, and the batches and their order are the same for any
        number of processes.

    Returns:
      An iterator over dicts of `inputs` and `targets` i32[B, T] and `weights`
      f32[B, T]; for a model with an encoder also `encoder_inputs` i32[B, T] and
      `encoder_counts` i32[B], the number of tokens that are not padding. If rows hold
      several documents that do not see each other, also `positions` i32[B, T], the
      number of inputs before each one that belong to the same document.
    """
    noise = self._noise
    orders = mixing.order(self._counts, self.facts.get("shares", [1.0]), seed,
                          epochs=noise is not None)
    # Batching after the orders were repeated lets a batch span two epochs. The orders
    # hold row numbers only, so that a batch is one gather from the rows in memory.
    batches, weights = [], []
    for rows, (order, share) in zip(self._rows["train"], orders):
      if share:
        size = mixing.batch_size(batch_size, rows)
        mine = pick(size)
        batches.append(order.batch(
            size, batch_fn=lambda found, mine=mine: np.asarray(found)[mine]).map(
            rows.batch if noise is None else functools.partial(
                noise.batch, rows, seed)))
        weights.append(share / size)
    # In proportion to their batches, so buckets end their epochs about together.
    mixed = batches[0] if len(batches) == 1 else grain.MapDataset.mix(
        batches, weights=[weight / sum(weights) for weight in weights])
    return iter(mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

  def evaluation_batches(self, split: str, batch_size: BatchSize) -> Iterator[Batch]:
    """Yields each target of a split once, bucket by bucket, in order.

    The last batch of each bucket is filled up with rows of weight 0, so that there is
    only one shape, and one compiled program, for each length.

    Args:
      split: Name of the split.
      batch_size: B.

    Yields:
      Batches as in training, with `documents` i32[B, T]: the index in the split of the
      document that a target belongs to, and -1 where the weight is 0.
    """
    encoder_pad = roles(tokenizers.for_encoder(self.tokenizer))["pad"]
    for rows in self._rows[split]:
      size = mixing.batch_size(batch_size, rows)
      for start in range(0, len(rows), size):
        index = np.arange(start, min(start + size, len(rows)))
        yield rows_lib.fill_batch(
            rows.evaluation_batch(index), size, self.roles["pad"], encoder_pad)

  def inputs(
      self, split: str, names: Sequence[str] = ("inputs", "positions")) -> list[Batch]:
    """Returns what a model reads of a split, for each bucket.

    Args:
      split: Name of the split.
      names: Entries of a batch, see `train_batches`. By default those that a language
        model reads.

    Returns:
      Dicts of those of them that batches have, i32[N, T] or i32[N].
    """
    return [{name: value for name, value in rows.all().arrays.items() if name in names}
            for rows in self._rows[split]]

  def with_hidden(self, hidden: Mapping[str, Sequence[Any]]) -> "Prepared":
    """Returns the same data with more entries in the batches of some splits.

    Args:
      hidden: By split, one object for each of `inputs`, which i64[B] indexes and which
        gives arrays dtype[B, ...] by name.
    """
    # `strict` refuses more or fewer objects than the split has buckets.
    return dataclasses.replace(self, _rows={
        split: [dataclasses.replace(one, hidden=more) for one, more in zip(
            rows, hidden.get(split, [None] * len(rows)), strict=True)]
        for split, rows in self._rows.items()})

  def document_bytes(self, split: str) -> np.ndarray:
    """Returns i64[N], the UTF-8 bytes of each target; 0 if the row was too long."""
    return self._bytes[split]()


def prepare(
    config: config_lib.Data,
    documents: Mapping[str, Sequence[Document]],
    tokenizer: tokenizers.Tokenizer,
    facts: Mapping[str, Any],
    encoder: config_lib.Recurrent | None = None,
) -> Prepared:
  """Tokenizes documents and lays them out in rows.

  For language models, texts are packed, each as `[bos] text [eos]` (or as the text
  alone, if the tokenizer has neither token), into rows of T inputs. Each token except
  bos is a target once. A text without bos begins with a token that nothing predicts:
  that token is no target, and its bytes are not counted. With `packing="joined"` all
  texts are one, which is cut into rows of T inputs; only its very first token, and bos,
  are no targets.

  A pair becomes `[bos] input [sep] target [eos]`, or what a chat template makes of it,
  padded on the right to the shortest bucket that holds it. Pairs longer than `length`
  are dropped, cut or refused, as `too_long` says, and counted.

  For a model with an encoder, a pair becomes two rows: the input with the special
  tokens that the model asks for, and `[start] target [eos]`. Both are padded to
  the shortest bucket that holds the longer one. With `corrupt.noise` a text becomes
  such pairs: a corrupted text, and what restores it. Here it is corrupted with a fixed
  key, as evaluation reads it.

  Args:
    config: The data config; `corrupt`, `length`, `packing`, `template`, `buckets` and
      `too_long` are read here.
    documents: Documents by split, as `documents.load` returns them.
    tokenizer: The tokenizer to use.
    facts: The facts that `documents.load` returned.
    encoder: Config of the model, if it has an encoder; otherwise None.

  Raises:
    errors.UserError: If no row is left in a split, pairs are too long and the config
      refuses such, or the config does not fit.
  """
  encoding = Encoding(config, tokenizer, encoder)
  encoding.check()
  parts = {
      split: stored_rows.part(
          split, found, encoding, facts.get("splits", {}).get(split, {}))
      for split, found in documents.items()}
  filled = [rows for part in parts.values() for rows in part.rows if len(rows)]
  own = tokenizers.own_encoder(tokenizer)
  # From the training split alone: validation and test must not influence a run.
  train = parts.get("train")
  described, reader = (
      {"size": one.size, "roles": roles, "notes": notes, **getattr(one, "facts", {})}
      for one in (tokenizer, encoding.reader)
      for roles, notes in [tokenizers.resolve_roles(one)])
  return Prepared(
      tokenizer=tokenizer, roles=encoding.roles,
      lengths=tuple(sorted({rows.length for rows in filled})),
      token_counts=train.token_counts if train else np.zeros(tokenizer.size, np.int64),
      encoder_token_counts=train.encoder_token_counts if train else np.zeros(
          own.size if own else 0, np.int64),
      facts=dict(facts) | {
          "splits": {split: part.facts for split, part in parts.items()},
          "notes": [*facts.get("notes", ()), *encoding.notes()],
          "tokenizer": described, **({"encoder_tokenizer": reader} if own else {})},
      _rows={split: part.rows for split, part in parts.items()},
      _bytes={split: part.text_bytes for split, part in parts.items()},
      _counts=train.counts if train else _NO_ROWS,
      _noise=train.noise if train else None)


def roles(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
  """Returns the ids of special tokens by role, including stand-ins."""
  return tokenizers.resolve_roles(tokenizer)[0]
