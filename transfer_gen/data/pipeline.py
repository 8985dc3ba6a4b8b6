"""Turns documents into batches of tokens, with a position that a checkpoint can hold.

Axes: B rows, T positions, N rows or documents of a split, V vocabulary.

All rows are in memory: 12 bytes per position for pairs, and 16 if the model has an
encoder or rows are packed; 8 for joined texts. A batch is one gather from them, which
is far faster than any training step. Therefore Grain runs in this process, without
worker processes, and nothing has to be closed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any, Protocol

import grain
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import fields
from transfer_gen.data import mixing
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import tokenizers

Batch, Document = rows_lib.Batch, fields.Document
# B, the number of rows of a batch; or a function of T, where it differs by length.
BatchSize = int | Callable[[int], int]
_NO_ROWS = np.zeros((0, 0), np.int64)  # `Prepared._counts` without a training split.
_CHUNK = 4096  # Texts; bounds the Python lists of ints that exist at a time.


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
  _rows: Mapping[str, Sequence[rows_lib.Rows]]
  _bytes: Mapping[str, np.ndarray]
  _counts: np.ndarray  # i64[lengths, parts], number of training rows.

  @property
  def encoder_tokenizer(self) -> tokenizers.Tokenizer | None:
    """Tokenizer of the inputs, if its ids are its own; see `tokenizers.own_encoder`."""
    return tokenizers.own_encoder(self.tokenizer)

  def train_batches(self, batch_size: BatchSize, seed: int) -> Batches:
    """Returns endless batches of the training split, reshuffled in each epoch.

    All rows of a batch are from one bucket. Buckets alternate in proportion to their
    numbers of batches. A batch may span the end of an epoch, so no row is left out. The
    parts of a mixture have epochs of their own, and their shares of the rows.

    Args:
      batch_size: B.
      seed: Seed of the order.

    Returns:
      An iterator over dicts of `inputs` and `targets` i32[B, T] and `weights`
      f32[B, T]; for a model with an encoder also `encoder_inputs` i32[B, T] and
      `encoder_counts` i32[B], the number of tokens that are not padding. If rows hold
      several documents that do not see each other, also `positions` i32[B, T], the
      number of inputs before each one that belong to the same document.
    """
    orders = mixing.order(self._counts, self.facts.get("shares", [1.0]), seed)
    # Batching after the orders were repeated lets a batch span two epochs. The orders
    # hold row numbers only, so that a batch is one gather from the rows in memory.
    batches, weights = [], []
    for rows, (order, share) in zip(self._rows["train"], orders):
      if share:
        size = _batch_size(batch_size, rows)
        batches.append(order.batch(size, batch_fn=np.asarray).map(rows.batch))
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
      size = _batch_size(batch_size, rows)
      for start in range(0, len(rows), size):
        index = np.arange(start, min(start + size, len(rows)))
        batch = rows.batch(index) | {"documents": rows.documents[index]}
        yield rows_lib.fill_batch(batch, size, self.roles["pad"], encoder_pad)

  def inputs(self, split: str) -> list[Batch]:
    """Returns what a language model reads of a split, for each bucket.

    Returns:
      Dicts of `inputs` i32[N, T] and, if batches have them, `positions` i32[N, T].
    """
    return [{name: value for name, value in (
        ("inputs", rows.inputs), ("positions", rows.positions)) if value is not None}
            for rows in self._rows[split]]

  def with_hidden(self, hidden: Mapping[str, Sequence[Any]]) -> "Prepared":
    """Returns the same data with `hidden` dtype[B, T, D] in the batches of some splits.

    Args:
      hidden: By split, one array dtype[N, T, D] for each of `inputs`, or any object
        that can be indexed by i64[B].
    """
    # `strict` refuses more or fewer arrays than the split has buckets.
    return dataclasses.replace(self, _rows={
        split: [dataclasses.replace(one, hidden=more) for one, more in zip(
            rows, hidden.get(split, [None] * len(rows)), strict=True)]
        for split, rows in self._rows.items()})

  def document_bytes(self, split: str) -> np.ndarray:
    """Returns i64[N], the UTF-8 bytes of each target; 0 if the row was too long."""
    return self._bytes[split]


def prepare(
    config: config_lib.Data,
    documents: Mapping[str, Sequence[fields.Document]],
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

  A pair becomes `[bos] input [sep] target [eos]`, padded on the right to the shortest
  bucket that holds it. Pairs longer than `length` are dropped, cut or refused, as
  `too_long` says, and counted.

  For a model with an encoder, a pair becomes two rows: the input with the special
  tokens that the model asks for, and `[start] target [eos]`. Both are padded to
  the shortest bucket that holds the longer one.

  Args:
    config: The data config; `length`, `packing`, `buckets` and `too_long` are read
      here.
    documents: Documents by split, as `documents.load` returns them.
    tokenizer: The tokenizer to use.
    facts: The facts that `documents.load` returned.
    encoder: Config of the model, if it has an encoder; otherwise None.

  Raises:
    errors.UserError: If no row is left in a split, pairs are too long and the config
      refuses such, or the config does not fit.
  """
  fields.check(config)
  roles, notes = tokenizers.resolve_roles(tokenizer)
  _check_pairs(config, roles, encoder)
  rows, sizes, splits, by_part = {}, {}, {}, {}
  # Translation models read one language and write another, each with its own pieces.
  reader = tokenizer if encoder is None else tokenizers.for_encoder(tokenizer)
  encoder_roles, more = tokenizers.resolve_roles(reader)
  own = tokenizers.own_encoder(tokenizer)
  token_counts = np.zeros(tokenizer.size, np.int64)
  encoder_token_counts = np.zeros(own.size if own else 0, np.int64)
  for split, found in documents.items():
    targets = _encode(tokenizer, [document.target for document in found])
    inputs = _encode(reader, [document.input for document in found])
    cut = 0
    if fields.is_pairs(config):
      inputs, targets, cut = rows_lib.fit(
          inputs, targets, encoder_roles, config, encoder)
    rows[split], kept, by_part[split] = mixing.lay_out(
        [document.part for document in found],
        mixing.layout(inputs, targets, roles, config, encoder, encoder_roles))
    # UTF-8 bytes, which all tokenizers have in common: the unit of bits per byte.
    sizes[split] = np.array(
        [len(document.target.encode()) for document in found], np.int64) * kept
    if not fields.is_pairs(config) and config.packing == fields.SEPARATE:
      sizes[split] -= rows_lib.unpredicted(targets, roles, tokenizer.tokens)
    if not kept.any():
      raise errors.UserError(
          f"data: all {len(found)} pairs of {split} are longer than"
          f" data.length={config.length} tokens. Raise it, or set data.too_long=cut.")
    # From the training split alone: validation and test must not influence a run.
    if split == "train":
      for texts, seen in ((inputs, encoder_token_counts if own else token_counts),
                          (targets, token_counts)):
        for ids in itertools.compress(texts, kept):
          # `seen[ids] += 1` would count a token once that occurs twice.
          np.add.at(seen, ids, 1)
    counts = dict(facts.get("splits", {}).get(split, {}))
    # A copy, so that the caller's facts stay as they are.
    dropped = dict(counts.get("dropped", {}))
    if not kept.all():
      dropped["too_many_tokens"] = int((~kept).sum())
    splits[split] = counts | ({"cut": cut} if cut else {}) | {
        "kept": int(kept.sum()), "dropped": dropped,
        "rows": {str(r.inputs.shape[1]): len(r) for r in rows[split]},
        "tokens": sum(int((r.documents >= 0).sum()) for r in rows[split]),
        "unknown_tokens": _count_unknown(reader, inputs)
        + _count_unknown(tokenizer, targets),
        "bytes": int(sizes[split].sum())}
  lengths = {r.inputs.shape[1] for found in rows.values() for r in found if len(r)}
  return Prepared(
      tokenizer=tokenizer, roles=roles, lengths=tuple(sorted(lengths)),
      token_counts=token_counts, encoder_token_counts=encoder_token_counts,
      facts=dict(facts) | {
          "splits": splits,
          "tokenizer": {"size": tokenizer.size, "roles": roles, "notes": notes},
          **({"encoder_tokenizer": {
              "size": own.size, "roles": encoder_roles, "notes": more}} if own else {})
      },
      _rows=rows, _bytes=sizes, _counts=by_part.get("train", _NO_ROWS))


def roles(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
  """Returns the ids of special tokens by role, including stand-ins."""
  return tokenizers.resolve_roles(tokenizer)[0]


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    config: config_lib.Data,
    strict: bool = True,
    longest: int | None = None,
) -> list[list[int]]:
  """Encodes prompts as rows begin: `[bos] prompt`, or `[bos] input [sep]` for pairs.

  Args:
    prompts: The texts.
    tokenizer: Tokenizer of the model.
    config: How the texts of its training were cleaned.
    strict: Whether a prompt is refused that is empty although the model answers inputs,
      or that has characters outside the vocabulary. Otherwise these become `unk`, as in
      training.
    longest: Largest number of tokens. Of longer prompts the last tokens stay, and of
      inputs of pairs the first ones. By default prompts may have any length.

  Raises:
    errors.UserError: If a prompt is refused, or a character has no token and there is
      no `unk`.
  """
  roles, _ = tokenizers.resolve_roles(tokenizer)
  pairs = fields.is_pairs(config)
  # Exactly how the rows of training begin; other beginnings would be new to the model.
  bos = [roles["bos"]] if "bos" in roles else []
  sep = [roles["sep"]] if pairs else []
  ids = _prompt_ids(prompts, tokenizer, config, answered=pairs, strict=strict)
  if longest is not None:
    room = max(longest - len(bos) - len(sep), 0)
    ids = (one[:room] if pairs else one[max(len(one) - room, 0):] for one in ids)
  return [[*bos, *one, *sep] for one in ids]


def tokenize_for_encoder(
    prompts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    config: config_lib.Data,
    encoder: config_lib.Recurrent,
    strict: bool = True,
    longest: int | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
  """Returns prompts as an encoder reads them, and the first tokens of their answers.

  Args:
    prompts: The texts.
    tokenizer: Tokenizer of the model.
    config: How the texts of its training were cleaned.
    encoder: Config of the model.
    strict: As for `encode_prompts`.
    longest: Largest number of tokens that the encoder reads; the first ones stay.

  Raises:
    errors.UserError: As `encode_prompts`.
  """
  roles, _ = tokenizers.resolve_roles(tokenizer)
  reader = tokenizers.for_encoder(tokenizer)
  of_reader, _ = tokenizers.resolve_roles(reader)
  # The marks around an input stay, however short it is cut.
  marks = len(rows_lib.encoder_row([], of_reader, encoder))
  room = None if longest is None else max(longest - marks, 0)
  inputs = [rows_lib.encoder_row(ids[:room], of_reader, encoder)
            for ids in _prompt_ids(
                prompts, reader, config, answered=True, strict=strict)]
  return inputs, [[rows_lib.start_token(roles, encoder)] for _ in inputs]


def _check_pairs(config, roles, encoder) -> None:
  """Refuses data that a model with an encoder cannot read, and answers without end."""
  if encoder is not None and not fields.is_pairs(config):
    raise errors.UserError(
        "The model has an encoder, which reads inputs, but the data has none. Set"
        " data.input_field (or two files, input|target, as data.train), or choose a"
        " model without an encoder.")
  # An answer without an end would have none to learn, and generation would run on.
  if fields.is_pairs(config) and "eos" not in roles:
    raise errors.UserError(
        "data: pairs need an end-of-text token, but the tokenizer has no special"
        " tokens. Choose another tokenizer.kind, or a language model"
        " (data.input_field='').")


def _prompt_ids(
    prompts: Sequence[str], tokenizer: tokenizers.Tokenizer, config: config_lib.Data,
    answered: bool, strict: bool,
) -> Iterator[list[int]]:
  """Yields the token ids of each prompt; see `encode_prompts` for what is refused."""
  for number, prompt in enumerate(prompts, 1):
    text = fields.clean(prompt, config)
    if strict and answered and not text.strip():
      raise errors.UserError(
          f"Prompt {number} is empty, but this model answers an input. Give it text.")
    try:
      # `encode` refuses what has no token.
      yield tokenizer.encode(text) if strict else tokenizer.encode_batch([text])[0]
    except errors.UserError as error:
      raise errors.UserError(f"Prompt {number}: {error}") from error


def _encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
  """Returns the token ids of each text, i32[length].

  A Python list of ints takes several times the memory of an array. Encoding in chunks
  bounds how much text is held in that form.
  """
  return [
      np.asarray(ids, np.int32)
      for start in range(0, len(texts), _CHUNK)
      for ids in tokenizer.encode_batch(texts[start:start + _CHUNK])]


def _count_unknown(
    tokenizer: tokenizers.Tokenizer, rows: Iterable[np.ndarray]
) -> int:
  unk = tokenizer.roles.get("unk")
  return 0 if unk is None else sum(int((ids == unk).sum()) for ids in rows)


def _batch_size(batch_size: BatchSize, rows: rows_lib.Rows) -> int:
  """Returns B for rows of one length."""
  size = batch_size(rows.inputs.shape[1]) if callable(batch_size) else batch_size
  if size < 1:
    raise errors.UserError(f"train.batch_size={size}: must be at least 1.")
  return size
