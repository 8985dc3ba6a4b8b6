"""Splits laid out in rows, and mixtures, whose parts training reads in given shares.

Axes: N rows or documents, T positions.

Each part goes through its own rows in its own order and begins again at its end, so a
small part with a large share is read several times while a large one is read once.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import grain
import numpy as np

from transfer_gen import errors
from transfer_gen.data import document
from transfer_gen.data import encoding as encoding_lib
from transfer_gen.data import fields
from transfer_gen.data import noise as noise_lib
from transfer_gen.data import rows as rows_lib

Noise = noise_lib.Noise
# Lays out the documents in a range: rows of each length, and bool[N], which of the
# documents they contain.
LayOut = Callable[[slice], tuple[list[rows_lib.Rows], np.ndarray]]
# Rows of an order without end. Grain's own number for that is the largest index, and
# rounded up, as for batches of one row, it is none.
_ENDLESS = 2**60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """One split, laid out.

  Attributes:
    rows: Rows of each length.
    counts: i64[lengths, parts], number of rows.
    facts: For data.json.
    token_counts: i64[V], how often each token stands in the texts that are in rows.
    encoder_token_counts: The same of inputs whose tokenizer has ids of its own, which
      `token_counts` then leaves out.
    text_bytes: Returns i64[N], the UTF-8 bytes of each target; 0 if the row was too
      long.
    noise: How training corrupts the rows; None if it does not.
  """
  rows: Sequence[Any]
  counts: np.ndarray
  facts: dict[str, Any]
  token_counts: np.ndarray
  encoder_token_counts: np.ndarray
  text_bytes: Callable[[], np.ndarray]
  noise: noise_lib.Noise | None = None


def part(
    split: str, documents: Sequence[document.Document], encoding: encoding_lib.Encoding,
    facts: Mapping[str, Any],
) -> Part:
  """Tokenizes the documents of a split and lays them out in rows.

  Args:
    split: Name of the split.
    documents: Its documents.
    encoding: How their texts become tokens.
    facts: What is known of the split already; stays as it is.

  Raises:
    errors.UserError: If no row is left, or pairs are too long and the config refuses
      such.
  """
  found = laid(documents, encoding)
  return dataclasses.replace(
      found, facts=describe(split, found.facts, encoding, facts))


def laid(
    documents: Sequence[document.Document], encoding: encoding_lib.Encoding) -> Part:
  """Does what `part` does, but a document need not be in a row.

  Returns:
    The part, whose `facts` are for `describe`: those of several parts are added up.
  """
  config, noise = encoding.config, noise_lib.build(encoding)
  texts = [text.target for text in documents]
  inputs, targets, cut = encoding.pairs(
      [text.input for text in documents], texts)
  rows, kept, counts = lay_out(
      [text.part for text in documents],
      layout(inputs, targets, encoding, noise, texts))
  # UTF-8 bytes, which all tokenizers have in common: the unit of bits per byte.
  sizes = np.array([len(text.encode()) for text in texts], np.int64) * kept
  if any(one.values is not None for one in rows):
    sizes *= 0  # What lies beside tokens is no text, and nothing to count bits by.
  elif noise_lib.SPANS in config.corrupt.noise:
    sizes = _written(rows[0], encoding.tokenizer.tokens, len(texts))
  elif encoding.encoder is None and not fields.is_pairs(config) and (
      config.packing == fields.SEPARATE):
    sizes -= rows_lib.unpredicted(targets, encoding.roles, encoding.tokenizer.tokens)
  in_rows = lambda ids: list(itertools.compress(ids, kept))
  own = encoding.own_reader
  inputs_, targets_ = in_rows(inputs), in_rows(targets)
  return Part(
      rows=rows, counts=counts, text_bytes=lambda: sizes, noise=noise,
      token_counts=_count(encoding.tokenizer.size, targets_, () if own else inputs_),
      encoder_token_counts=_count(
          own.size if own else 0, inputs_ if own else ()),
      facts={
          "read": len(documents), "cut": cut, "kept": int(kept.sum()),
          "rows": {str(r.length): len(r) for r in rows},
          "tokens": sum(int((r.documents >= 0).sum()) for r in rows),
          "unknown_tokens": encoding.count_unknown(inputs, targets),
          "bytes": int(sizes.sum())})


def describe(
    split: str, found: Mapping[str, Any], encoding: encoding_lib.Encoding,
    before: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns the facts of a split for data.json.

  Args:
    split: Name of the split.
    found: The facts that `laid` returned.
    encoding: How texts became tokens.
    before: What is known of the split already.

  Raises:
    errors.UserError: If no document is in a row.
  """
  config = encoding.config
  read, kept, cut = (found[name] for name in ("read", "kept", "cut"))
  if not kept and config.corrupt.noise:
    raise errors.UserError(f"data: no document of {split} has any token to corrupt.")
  if not kept:
    raise errors.UserError(
        f"data: all {read} documents of {split} are longer than"
        f" data.length={config.length} tokens. Raise it, or set data.too_long=cut.")
  dropped = dict(before.get("dropped", {}))
  if kept < read:
    # Noise cuts long texts into pieces, and only what has no token is in no row.
    cause = "without_tokens" if config.corrupt.noise else "too_many_tokens"
    dropped[cause] = read - kept
  counts = {name: found[name] for name in (
      "kept", "rows", "tokens", "unknown_tokens", "bytes")}
  return {**before, **({"cut": cut} if cut else {}), "dropped": dropped, **counts}


def layout(
    inputs: rows_lib.Texts, targets: rows_lib.Texts, encoding: encoding_lib.Encoding,
    noise: noise_lib.Noise | None = None, texts: Sequence[str] = (),
) -> LayOut:
  """Returns what lays out a range of the documents, for `lay_out`.

  Args:
    inputs: Token ids of the inputs; not read for a language model.
    targets: Token ids of the targets.
    encoding: How they became ids; `length`, `buckets` and `packing` of its config are
      read here.
    noise: How texts are corrupted, if they are.
    texts: The targets as texts, which show what is no token, such as offsets.
  """
  config, roles, encoder = encoding.config, encoding.roles, encoding.encoder
  lengths = sorted({*config.buckets, config.length})
  # Not all kinds of tokenizers have the method: that of drawings has.
  if draw := getattr(encoding.tokenizer, "rows", None):
    return lambda part: draw(
        texts[part], config.length, [len(one) for one in targets[part]])
  if noise is not None and config.corrupt.noise:
    return lambda part: noise.lay_out(targets[part])
  if encoder is not None:
    return lambda part: rows_lib.pad_both(
        inputs[part], targets[part], roles, lengths, encoder,
        encoding.encoder_roles)
  if fields.is_pairs(config):
    if not encoding.chat:  # Its templates write the special tokens themselves.
      inputs, targets = rows_lib.mark(inputs, targets, roles)
    return lambda part: rows_lib.pad(inputs[part], targets[part], roles, lengths)
  pack = rows_lib.pack if config.packing == fields.SEPARATE else rows_lib.join
  return lambda part: ([pack(targets[part], roles, config.length)],
                       np.ones(len(targets[part]), bool))


def lay_out(
    parts: Sequence[int], lay_out_part: LayOut
) -> tuple[list[rows_lib.Rows], np.ndarray, np.ndarray]:
  """Lays out each part on its own, so that no row holds documents of two parts.

  Args:
    parts: The part of each document, ascending from 0.
    lay_out_part: Lays out a range of the documents.

  Returns:
    Rows of each length, with those of the first part first; bool[N], which documents
    they contain; and i64[lengths, parts], the number of rows.
  """
  starts = np.searchsorted(parts, np.arange(parts[-1] + 2))
  laid = [lay_out_part(slice(start, end)) for start, end in zip(starts, starts[1:])]
  by_length = list(zip(*(
      [_moved(rows, start) for rows in buckets]
      for (buckets, _), start in zip(laid, starts))))
  return ([_joined(rows) for rows in by_length],
          np.concatenate([kept for _, kept in laid]),
          np.array([[len(rows) for rows in bucket] for bucket in by_length]))


def order(
    counts: np.ndarray, shares: Sequence[float], seed: int, epochs: bool = False
) -> list[tuple[grain.MapDataset, float]]:
  """Returns the endless order in which the rows of each length are read.

  Args:
    counts: i64[lengths, parts], as `lay_out` returns them.
    shares: Share of the rows that is of each part, adding up to 1.
    seed: Seed of the order.
    epochs: Whether pairs of the epoch and the row number are wanted.

  Returns:
    For each length the row numbers, in an order that repeats without end, and the share
    of all rows that has this length. It is 0 for a length without rows.
  """
  # Parts fill lengths differently. With these weights each part has its share over all
  # lengths together, and reads its rows of all lengths equally often.
  weights = counts / counts.sum(0) * np.asarray(shares)  # [lengths, parts]
  return [(_rows(row, weight, seed, epochs), float(weight.sum())) if weight.any() else
          (grain.MapDataset.range(0), 0.0) for row, weight in zip(counts, weights)]


def batch_size(size: int | Callable[[int], int], rows: Any) -> int:
  """Returns B for rows of one length.

  Args:
    size: B, or a function from T to B.
    rows: The rows.

  Raises:
    errors.UserError: If it is less than 1.
  """
  size = size(rows.length) if callable(size) else size
  if size < 1:
    raise errors.UserError(f"train.batch_size={size}: must be at least 1.")
  return size


def _rows(
    counts: np.ndarray, weights: np.ndarray, seed: int, epochs: bool
) -> grain.MapDataset:
  ends = np.cumsum(counts)
  orders: list[Any] = [
      # Shuffled before `repeat`, which gives each epoch its own order.
      grain.MapDataset.range(int(end - count), int(end)).shuffle(seed=seed).repeat(
          _ENDLESS // int(count))
      for count, end in zip(counts, ends) if count]
  if epochs:
    orders = [order.map_with_index(functools.partial(_with_epoch, int(count)))
              for order, count in zip(orders, counts[counts > 0])]
  if not orders[1:]:
    return orders[0]
  shares = weights[counts > 0] / weights.sum()
  return grain.MapDataset.mix(orders, weights=shares.tolist())


def _count(size: int, *sides: Sequence[np.ndarray]) -> np.ndarray:
  """Returns i64[size], how often each token occurs in texts."""
  counts = np.zeros(size, np.int64)
  for ids in itertools.chain.from_iterable(sides):
    # `counts[ids] += 1` would count a token once that occurs twice.
    np.add.at(counts, ids, 1)
  return counts


def _with_epoch(count: int, index: int, row: int) -> tuple[int, int]:
  return index // count, row


def _written(
    rows: rows_lib.Rows, surfaces: Sequence[bytes], count: int) -> np.ndarray:
  """Returns i64[N], the bytes of the targets of each document."""
  sizes = np.array([len(surface) for surface in surfaces], np.int64)
  counted = rows.documents >= 0
  return np.bincount(rows.documents[counted], sizes[rows.targets[counted]],
                     count).astype(np.int64)


def _moved(rows: rows_lib.Rows, start: int) -> rows_lib.Rows:
  """Counts documents from the first one of all parts."""
  return dataclasses.replace(
      rows, documents=np.where(rows.documents < 0, -1, rows.documents + start).astype(
          np.int32)) if start else rows


def _joined(found: Sequence[rows_lib.Rows]) -> rows_lib.Rows:
  if len(found) == 1:
    return found[0]
  if any(rows.positions is not None for rows in found):
    found = [rows.with_positions() for rows in found]
  names = [field.name for field in dataclasses.fields(rows_lib.Rows)]
  columns: dict[str, Any] = {
      name: [getattr(rows, name) for rows in found] for name in names}
  joined: dict[str, Any] = {
      name: None if all(value is None for value in values) else np.concatenate(values)
      for name, values in columns.items()}
  return rows_lib.Rows(**joined)
