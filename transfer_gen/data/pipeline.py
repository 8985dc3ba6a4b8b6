"""Documents to batches of tokens, with a position that a checkpoint can hold.

Axes: B rows, T positions, N rows or documents of a split.

All rows are in memory: 12 bytes a position for pairs (16 for an encoder), 8 for
language models. A batch is one gather from them, far faster than any training, so
Grain runs in this process: its worker processes are not used, and nothing has to be
closed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, Protocol

import grain
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import documents as documents_lib
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import tokenizers

Batch = rows_lib.Batch
_CHUNK = 4096


class Batches(Protocol):
  """An endless iterator of batches with a position."""

  def __next__(self) -> Batch:
    """The next batch."""

  def get_state(self) -> dict[str, Any]:
    """The position, as JSON can hold it."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on after the batch that was last when `state` was taken."""


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Tokenised data.

  Attributes:
    tokenizer: What made the ids.
    roles: Ids of pad, bos, eos and sep, stand-ins included.
    lengths: All T that batches can have, ascending.
    token_counts: i64[V], how often each token stands in the texts of the training
      split that were kept; roles, which rows add, are not counted.
    facts: For data.json: the documents' facts, `tokenizer`, and by split `rows` by
      length, `tokens` (targets that count), `unknown_tokens`, `bytes` of the
      targets and `kept` and `dropped` with those of `too_many_tokens`.
  """
  tokenizer: tokenizers.Tokenizer
  roles: Mapping[str, int]
  lengths: tuple[int, ...]
  token_counts: np.ndarray
  facts: dict[str, Any]
  _rows: Mapping[str, Sequence[rows_lib.Rows]]
  _bytes: Mapping[str, np.ndarray]

  def train_batches(self, batch_size: int, seed: int) -> Batches:
    """Batches without end, reshuffled each epoch.

    All rows of a batch are of one bucket; buckets alternate as their rows do in
    number. A batch may reach over the end of an epoch, so no row is left out.

    Args:
      batch_size: B.
      seed: Of the order.

    Returns:
      An iterator over inputs and targets i32[B, T] and weights f32[B, T]; for an
      encoder also encoder_inputs i32[B, T] and encoder_counts i32[B], how many of them
      are no padding.
    """
    _check_batch_size(batch_size)
    buckets = [rows for rows in self._rows["train"] if len(rows)]
    batches = [
        grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat()
        .batch(batch_size, batch_fn=np.asarray).map(rows.batch)
        for rows in buckets]
    total = sum(map(len, buckets))
    mixed = batches[0] if len(batches) == 1 else grain.MapDataset.mix(
        batches, weights=[len(rows) / total for rows in buckets])
    return iter(mixed.to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

  def evaluation_batches(self, split: str, batch_size: int) -> Iterator[Batch]:
    """Every target of a split once, by bucket, in order.

    The last batch of each bucket is filled with rows of weight 0, so that there
    are no more shapes than lengths.

    Yields:
      Batches as in training, and documents i32[B, T]: the index of the target's
      document in the split, -1 where the weight is 0.
    """
    _check_batch_size(batch_size)
    for rows in self._rows[split]:
      for start in range(0, len(rows), batch_size):
        index = np.arange(start, min(start + batch_size, len(rows)))
        batch = rows.batch(index) | {"documents": rows.documents[index]}
        yield rows_lib.fill(batch, batch_size, self.roles["pad"])

  def inputs(self, split: str) -> list[np.ndarray]:
    """i32[N, T] of each bucket of a split: what its rows read."""
    return [rows.inputs for rows in self._rows[split]]

  def with_hidden(self, hidden: Mapping[str, Sequence[Any]]) -> "Prepared":
    """The same, with `hidden` dtype[B, T, D] in the batches of some splits.

    Args:
      hidden: By split, for each of `inputs`: dtype[N, T, D], in an array or whatever
        i64[B] index.
    """
    return dataclasses.replace(self, _rows={
        split: [dataclasses.replace(one, hidden=more) for one, more in zip(
            rows, hidden.get(split, [None] * len(rows)), strict=True)]
        for split, rows in self._rows.items()})

  def document_bytes(self, split: str) -> np.ndarray:
    """i64[N]: UTF-8 bytes of each document's target, 0 if it was dropped here."""
    return self._bytes[split]


def prepare(
    config: config_lib.Data,
    documents: Mapping[str, Sequence[documents_lib.Document]],
    tokenizer: tokenizers.Tokenizer,
    facts: Mapping[str, Any],
    encoder: config_lib.Recurrent | None = None,
) -> Prepared:
  """Tokenises documents and lays them out in rows.

  Language models: `[bos] text [eos]` one after the other (the text alone, where the
  tokenizer has neither), cut into windows of T inputs; each token but bos and the
  very first is a target once. Pairs: `[bos] input [sep] target
  [eos]`, padded on the right to the shortest bucket that holds it; those beyond
  `length` are dropped and counted. For an encoder, each side has a row of its own,
  `[start] target [eos]` and the input with its marks; both are padded to the bucket
  that holds the longer.

  Args:
    config: Of the data; `length` and `buckets` are read here.
    documents: By split, as `documents.load` returns them.
    tokenizer: Text to ids.
    facts: What `documents.load` returned beside them.
    encoder: Config of the model, where it has an encoder.

  Raises:
    errors.UserError: No row is left in a split, or the config does not fit.
  """
  documents_lib.check(config)
  if encoder is not None and not documents_lib.is_pairs(config):
    raise errors.UserError(
        "The model has an encoder, which reads inputs, and the data has none. Set"
        " data.input_field (or two files, input|target, as data.train), or take a"
        " model without an encoder.")
  roles, notes = tokenizers.resolve_roles(tokenizer)
  if documents_lib.is_pairs(config) and "eos" not in roles:
    raise errors.UserError(
        "data: pairs need an end of text, and the tokeniser has no special token."
        " Take another tokenizer.kind, or a language model (data.input_field='').")
  rows, sizes, splits = {}, {}, {}
  token_counts = np.zeros(tokenizer.size, np.int64)
  for split, found in documents.items():
    targets = _encode(tokenizer, [document.target for document in found])
    reader = tokenizer if encoder is None else tokenizers.for_encoder(tokenizer)
    inputs = _encode(reader, [document.input for document in found])
    rows[split], kept = _lay_out(inputs, targets, roles, config, encoder)
    sizes[split] = np.array(
        [len(document.target.encode()) for document in found], np.int64) * kept
    if not kept.any():
      raise errors.UserError(
          f"data: each of the {len(found)} pairs of {split} is longer than"
          f" data.length={config.length} tokens. Raise it, or set data.max_chars.")
    if split == "train":
      for ids in itertools.compress([*inputs, *targets], [*kept, *kept]):
        np.add.at(token_counts, ids, 1)
    counts = dict(facts.get("splits", {}).get(split, {}))
    dropped = dict(counts.get("dropped", {}))
    if not kept.all():
      dropped["too_many_tokens"] = int((~kept).sum())
    splits[split] = counts | {
        "kept": int(kept.sum()), "dropped": dropped,
        "rows": {str(r.inputs.shape[1]): len(r) for r in rows[split]},
        "tokens": sum(int((r.documents >= 0).sum()) for r in rows[split]),
        "unknown_tokens": _count_unknown(tokenizer, [*inputs, *targets]),
        "bytes": int(sizes[split].sum())}
  lengths = {r.inputs.shape[1] for found in rows.values() for r in found if len(r)}
  return Prepared(
      tokenizer=tokenizer, roles=roles, lengths=tuple(sorted(lengths)),
      token_counts=token_counts, facts=dict(facts) | {
          "splits": splits,
          "tokenizer": {"size": tokenizer.size, "roles": roles, "notes": notes}},
      _rows=rows, _bytes=sizes)


def roles(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
  """Ids of the tokens that mark texts, by role, with stand-ins for those that lack."""
  return tokenizers.resolve_roles(tokenizer)[0]


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    config: config_lib.Data,
) -> list[list[int]]:
  """Prompts as rows begin: `[bos] prompt`, for pairs `[bos] input [sep]`.

  Raises:
    errors.UserError: A prompt with characters outside the vocabulary, or an empty
      one where the model answers to an input.
  """
  roles, _ = tokenizers.resolve_roles(tokenizer)
  pairs = documents_lib.is_pairs(config)
  bos = [roles["bos"]] if "bos" in roles else []
  return [[*bos, *ids, *([roles["sep"]] if pairs else [])]
          for ids in _prompt_ids(prompts, tokenizer, config, pairs)]


def tokenize_for_encoder(
    prompts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    config: config_lib.Data,
    encoder: config_lib.Recurrent,
) -> tuple[list[list[int]], list[list[int]]]:
  """Prompts as an encoder reads them, and what their answers begin with.

  Raises:
    errors.UserError: A prompt that is empty or has characters outside the vocabulary.
  """
  roles, _ = tokenizers.resolve_roles(tokenizer)
  reader = tokenizers.for_encoder(tokenizer)
  inputs = [rows_lib.encoder_row(ids, roles, encoder)
            for ids in _prompt_ids(prompts, reader, config, answered=True)]
  return inputs, [[rows_lib.start(roles, encoder)] for _ in inputs]


def _lay_out(inputs, targets, roles, config, encoder):
  """Rows by length, and bool[N]: which documents are in them."""
  lengths = sorted({*config.buckets, config.length})
  if encoder is not None:
    return rows_lib.pad_both(inputs, targets, roles, lengths, encoder)
  if documents_lib.is_pairs(config):
    return rows_lib.pad(inputs, targets, roles, lengths)
  return [rows_lib.pack(targets, roles, config.length)], np.ones(len(targets), bool)


def _prompt_ids(
    prompts: Sequence[str], tokenizer: tokenizers.Tokenizer, config: config_lib.Data,
    answered: bool,
) -> Iterator[list[int]]:
  """Ids of each; where it is answered and not gone on from, it must not be empty."""
  for number, prompt in enumerate(prompts, 1):
    text = documents_lib.clean(prompt, config.normalize, config.newline)
    if answered and not text.strip():
      raise errors.UserError(
          f"Prompt {number} is empty, and this model answers to an input. Give it"
          " text.")
    try:
      yield tokenizer.encode(text)
    except errors.UserError as error:
      raise errors.UserError(f"Prompt {number}: {error}") from error


def _encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
  """i32[length] of each text; chunks keep lists of Python ints short-lived."""
  return [
      np.asarray(ids, np.int32)
      for start in range(0, len(texts), _CHUNK)
      for ids in tokenizer.encode_batch(texts[start:start + _CHUNK])]


def _count_unknown(
    tokenizer: tokenizers.Tokenizer, rows: Iterable[np.ndarray]
) -> int:
  unk = tokenizer.roles.get("unk")
  return 0 if unk is None else sum(int((ids == unk).sum()) for ids in rows)


def _check_batch_size(batch_size: int) -> None:
  if batch_size < 1:
    raise errors.UserError(
        f"train.batch_size={batch_size}: must be at least 1.")
