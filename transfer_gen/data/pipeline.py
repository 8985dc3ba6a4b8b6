"""Documents to batches of tokens, with a position that a checkpoint can hold.

Axes: B rows, T positions, N rows or documents of a split.

All rows are in memory: 12 bytes a position for pairs, 8 for language models. A
batch is one gather from them, far faster than any training, so Grain runs in this
process: its worker processes are not used, and nothing has to be closed.
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
from transfer_gen.data import tokenizers

Batch = dict[str, np.ndarray]
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
  _rows: Mapping[str, Sequence["_Rows"]]
  _bytes: Mapping[str, np.ndarray]

  def train_batches(self, batch_size: int, seed: int) -> Batches:
    """Batches without end, reshuffled each epoch.

    All rows of a batch are of one bucket; buckets alternate as their rows do in
    number. A batch may reach over the end of an epoch, so no row is left out.

    Args:
      batch_size: B.
      seed: Of the order.

    Returns:
      An iterator over inputs and targets i32[B, T] and weights f32[B, T].
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
      inputs and targets i32[B, T], weights f32[B, T], and documents i32[B, T]: the
      index of the target's document in the split, -1 where the weight is 0.
    """
    _check_batch_size(batch_size)
    for rows in self._rows[split]:
      for start in range(0, len(rows), batch_size):
        index = np.arange(start, min(start + batch_size, len(rows)))
        batch = rows.batch(index) | {"documents": rows.documents[index]}
        yield _fill(batch, batch_size, self.roles["pad"])

  def document_bytes(self, split: str) -> np.ndarray:
    """i64[N]: UTF-8 bytes of each document's target, 0 if it was dropped here."""
    return self._bytes[split]


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Rows of one length. documents is -1 where a target does not count."""
  inputs: np.ndarray  # i32[N, T]
  targets: np.ndarray  # i32[N, T]
  documents: np.ndarray  # i32[N, T]

  def __len__(self) -> int:
    return len(self.inputs)

  def batch(self, index: np.ndarray) -> Batch:
    """The rows at i64[B]."""
    return {
        "inputs": self.inputs[index],
        "targets": self.targets[index],
        "weights": (self.documents[index] >= 0).astype(np.float32)}


def prepare(
    config: config_lib.Data,
    documents: Mapping[str, Sequence[documents_lib.Document]],
    tokenizer: tokenizers.Tokenizer,
    facts: Mapping[str, Any],
) -> Prepared:
  """Tokenises documents and lays them out in rows.

  Language models: `[bos] text [eos]` one after the other, cut into windows of T
  inputs; each token but bos is a target once. Pairs: `[bos] input [sep] target
  [eos]`, padded on the right to the shortest bucket that holds it; those beyond
  `length` are dropped and counted.

  Args:
    config: Of the data; `length` and `buckets` are read here.
    documents: By split, as `documents.load` returns them.
    tokenizer: Text to ids.
    facts: What `documents.load` returned beside them.

  Raises:
    errors.UserError: No row is left in a split, or the config does not fit.
  """
  documents_lib.check(config)
  roles, notes = tokenizers.resolve_roles(tokenizer)
  pairs = documents_lib.is_pairs(config)
  lay_out = _pad if pairs else _pack
  rows, sizes, splits = {}, {}, {}
  token_counts = np.zeros(tokenizer.size, np.int64)
  for split, found in documents.items():
    targets = _encode(tokenizer, [document.target for document in found])
    inputs = _encode(tokenizer, [document.input for document in found])
    rows[split], kept = lay_out(inputs, targets, roles, config)
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
  rows = []
  for number, prompt in enumerate(prompts, 1):
    text = documents_lib.clean(prompt, config.normalize)
    if pairs and not text.strip():
      raise errors.UserError(
          f"Prompt {number} is empty, and this model answers to an input. Give it"
          " text.")
    try:
      ids = tokenizer.encode(text)
    except errors.UserError as error:
      raise errors.UserError(f"Prompt {number}: {error}") from error
    rows.append([roles["bos"], *ids, *([roles["sep"]] if pairs else [])])
  return rows


def _encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
  """i32[length] of each text; chunks keep lists of Python ints short-lived."""
  return [
      np.asarray(ids, np.int32)
      for start in range(0, len(texts), _CHUNK)
      for ids in tokenizer.encode_batch(texts[start:start + _CHUNK])]


def _pack(
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    roles: Mapping[str, int],
    config: config_lib.Data,
) -> tuple[list[_Rows], np.ndarray]:
  """Windows over all texts; the rows share memory, and every text is kept."""
  del inputs  # A language model has none.
  length = config.length
  counts = np.array([len(ids) + 2 for ids in targets])
  num_rows = -(-(int(counts.sum()) - 1) // length)
  tokens = np.full(num_rows * length + 1, roles["pad"], np.int32)
  owners = np.full(num_rows * length + 1, -1, np.int32)
  position = 0
  for document, ids in enumerate(targets):
    end = position + len(ids) + 2
    tokens[position] = roles["bos"]
    tokens[position + 1:end - 1] = ids
    tokens[end - 1] = roles["eos"]
    owners[position + 1:end] = document  # bos always follows: nothing to learn.
    position = end
  shape = (num_rows, length)
  rows = _Rows(
      tokens[:-1].reshape(shape), tokens[1:].reshape(shape),
      owners[1:].reshape(shape))
  return [rows], np.ones(len(targets), bool)


def _pad(
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    roles: Mapping[str, int],
    config: config_lib.Data,
) -> tuple[list[_Rows], np.ndarray]:
  """One row a pair, in buckets, and bool[N]: which pairs fit into one."""
  lengths = sorted({*config.buckets, config.length})
  counts = np.array([len(a) + len(b) + 2 for a, b in zip(inputs, targets)])
  places = np.searchsorted(lengths, counts)  # The first that holds each.
  buckets = []
  for place, length in enumerate(lengths):
    members = np.flatnonzero(places == place)
    shape = (len(members), length)
    rows = _Rows(
        np.full(shape, roles["pad"], np.int32),
        np.full(shape, roles["pad"], np.int32), np.full(shape, -1, np.int32))
    for row, member in enumerate(members):
      tokens = np.concatenate([
          [roles["bos"]], inputs[member], [roles["sep"]], targets[member],
          [roles["eos"]]])
      size = len(tokens) - 1
      rows.inputs[row, :size] = tokens[:-1]
      rows.targets[row, :size] = tokens[1:]
      rows.documents[row, len(inputs[member]) + 1:size] = member
    buckets.append(rows)
  return buckets, places < len(lengths)


def _fill(batch: Batch, batch_size: int, pad: int) -> Batch:
  """Adds rows of padding up to B."""
  missing = batch_size - len(batch["inputs"])
  empty = {"inputs": pad, "targets": pad, "weights": 0, "documents": -1}
  return {
      name: np.pad(value, ((0, missing), (0, 0)), constant_values=empty[name])
      for name, value in batch.items()}


def _count_unknown(
    tokenizer: tokenizers.Tokenizer, rows: Iterable[np.ndarray]
) -> int:
  unk = tokenizer.roles.get("unk")
  return 0 if unk is None else sum(int((ids == unk).sum()) for ids in rows)


def _check_batch_size(batch_size: int) -> None:
  if batch_size < 1:
    raise errors.UserError(
        f"train.batch_size={batch_size}: must be at least 1.")
