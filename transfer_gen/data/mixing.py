"""Mixtures: rows of several parts, which training reads in given shares.

Axes: N rows or documents, T positions.

Each part goes through its own rows in its own order and begins again at its end, so a
small part with a large share is read several times while a large one is read once.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import grain
import numpy as np

from transfer_gen.data import encoding as encoding_lib
from transfer_gen.data import fields
from transfer_gen.data import rows as rows_lib

# Lays out the documents in a range: rows of each length, and bool[N], which of the
# documents they contain.
LayOut = Callable[[slice], tuple[list[rows_lib.Rows], np.ndarray]]


def layout(
    inputs: rows_lib.Texts, targets: rows_lib.Texts, encoding: encoding_lib.Encoding,
) -> LayOut:
  """Returns what lays out a range of the documents, for `lay_out`.

  Args:
    inputs: Token ids of the inputs; not read for a language model.
    targets: Token ids of the targets.
    encoding: How they became ids; `length`, `buckets` and `packing` of its config are
      read here.
  """
  config, roles, encoder = encoding.config, encoding.roles, encoding.encoder
  lengths = sorted({*config.buckets, config.length})
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
    counts: np.ndarray, shares: Sequence[float], seed: int
) -> list[tuple[grain.MapDataset, float]]:
  """Returns the endless order in which the rows of each length are read.

  Args:
    counts: i64[lengths, parts], as `lay_out` returns them.
    shares: Share of the rows that is of each part, adding up to 1.
    seed: Seed of the order.

  Returns:
    For each length the row numbers, in an order that repeats without end, and the share
    of all rows that has this length. It is 0 for a length without rows.
  """
  # Parts fill lengths differently. With these weights each part has its share over all
  # lengths together, and reads its rows of all lengths equally often.
  weights = counts / counts.sum(0) * np.asarray(shares)  # [lengths, parts]
  return [(_rows(row, weight, seed), float(weight.sum())) if weight.any() else
          (grain.MapDataset.range(0), 0.0) for row, weight in zip(counts, weights)]


def _rows(
    counts: np.ndarray, weights: np.ndarray, seed: int) -> grain.MapDataset:
  ends = np.cumsum(counts)
  orders = [
      # Shuffled before `repeat`, which gives each epoch its own order.
      grain.MapDataset.range(int(end - count), int(end)).shuffle(seed=seed).repeat()
      for count, end in zip(counts, ends) if count]
  if not orders[1:]:
    return orders[0]
  shares = weights[counts > 0] / weights.sum()
  return grain.MapDataset.mix(orders, weights=shares.tolist())


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
