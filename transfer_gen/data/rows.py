"""Texts laid out in rows of tokens.

Axes: N rows, T positions, S positions of what an encoder reads.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors

_MARKS = {"none": (), "eos": ("eos",), "both": ("bos", "eos")}

Batch = dict[str, np.ndarray]
Texts = Sequence[np.ndarray]  # i32[length] each.
Roles = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one length.

  Attributes:
    inputs: i32[N, T].
    targets: i32[N, T].
    documents: i32[N, T], whose target it is; -1 where it does not count.
    encoder_inputs: i32[N, S], what an encoder reads; None where there is none.
    encoder_counts: i32[N], how many of those are no padding.
    hidden: dtype[N, T, D], what a frozen prefix makes of `inputs`, in an array or
      whatever i64[B] index; None: it is computed.
  """
  inputs: np.ndarray
  targets: np.ndarray
  documents: np.ndarray
  encoder_inputs: np.ndarray | None = None
  encoder_counts: np.ndarray | None = None
  hidden: Any = None

  def __len__(self) -> int:
    return len(self.inputs)

  def batch(self, index: np.ndarray) -> Batch:
    """The rows at i64[B]."""
    batch = {
        "inputs": self.inputs[index],
        "targets": self.targets[index],
        "weights": (self.documents[index] >= 0).astype(np.float32)}
    if self.hidden is not None:
      batch["hidden"] = self.hidden[index]
    if self.encoder_inputs is None or self.encoder_counts is None:
      return batch
    return batch | {"encoder_inputs": self.encoder_inputs[index],
                    "encoder_counts": self.encoder_counts[index]}


def pack(texts: Texts, roles: Roles, length: int) -> Rows:
  """Windows of T inputs over `[bos] text [eos]` of all texts; they share memory.

  Marks that `roles` lacks are left out: texts run on.
  """
  bos, eos = ([roles[r]] if r in roles else [] for r in ("bos", "eos"))
  total = sum(len(bos) + len(ids) + len(eos) for ids in texts)
  num_rows = max(1, -(-(total - 1) // length))
  tokens = np.full(num_rows * length + 1, roles["pad"], np.int32)
  owners = np.full(num_rows * length + 1, -1, np.int32)
  position = 0
  for document, ids in enumerate(texts):
    begin = position + len(bos)
    end = begin + len(ids) + len(eos)
    tokens[position:end] = np.concatenate([bos, ids, eos])
    owners[begin:end] = document  # bos always follows: nothing to learn.
    position = end
  shape = (num_rows, length)
  return Rows(tokens[:-1].reshape(shape), tokens[1:].reshape(shape),
              owners[1:].reshape(shape))


def pad(
    inputs: Texts, targets: Texts, roles: Roles, lengths: Sequence[int]
) -> tuple[list[Rows], np.ndarray]:
  """A row a pair, `[bos] input [sep] target [eos]`.

  Args:
    inputs: What is answered.
    targets: The answers.
    roles: Ids of all roles.
    lengths: Of the buckets, ascending.

  Returns:
    A bucket each, and bool[N]: which pairs fit into one.
  """
  counts = np.array([len(a) + len(b) + 2 for a, b in zip(inputs, targets)])
  buckets = []
  for length, members in _buckets(counts, lengths):
    rows = _empty(len(members), length, roles)
    for row, member in enumerate(members):
      tokens = np.concatenate([
          [roles["bos"]], inputs[member], [roles["sep"]], targets[member],
          [roles["eos"]]])
      _write(rows, row, tokens, first=len(inputs[member]) + 1, document=member)
    buckets.append(rows)
  return buckets, counts <= lengths[-1]


def pad_both(
    inputs: Texts, targets: Texts, roles: Roles, lengths: Sequence[int],
    encoder: config_lib.Recurrent,
) -> tuple[list[Rows], np.ndarray]:
  """The same for an encoder: inputs with their marks, and `[start] target [eos]`.

  The longer side decides the bucket, and both are padded to its length: there are no
  more shapes than buckets.
  """
  marked = [encoder_row(ids, roles, encoder) for ids in inputs]
  counts = np.array([max(len(a), len(b) + 1) for a, b in zip(marked, targets)])
  begin, buckets = start(roles, encoder), []
  for length, members in _buckets(counts, lengths):
    encoder_inputs = np.full((len(members), length), roles["pad"], np.int32)
    rows = dataclasses.replace(
        _empty(len(members), length, roles), encoder_inputs=encoder_inputs,
        encoder_counts=np.array([len(marked[i]) for i in members], np.int32))
    for row, member in enumerate(members):
      encoder_inputs[row, :len(marked[member])] = marked[member]
      tokens = np.concatenate([[begin], targets[member], [roles["eos"]]])
      _write(rows, row, tokens, first=0, document=member)
    buckets.append(rows)
  return buckets, counts <= lengths[-1]


def encoder_row(
    ids: Sequence[int] | np.ndarray, roles: Roles, encoder: config_lib.Recurrent,
) -> list[int]:
  """Returns a text with its special tokens, as an encoder reads it.

  Special tokens that `roles` lacks are left out.

  Raises:
    errors.UserError: If the model asks for others than there are.
  """
  if encoder.encoder_marks not in _MARKS:
    raise errors.UserError(
        f"model.encoder_marks is {encoder.encoder_marks!r}, must be one of"
        f" {', '.join(_MARKS)}.")
  marks = _MARKS[encoder.encoder_marks]
  before, behind = (
      [roles[role]] if role in marks and role in roles else []
      for role in ("bos", "eos"))
  return [*before, *ids, *behind]


def start(roles: Roles, encoder: config_lib.Recurrent) -> int:
  """The token that an answer begins with.

  Raises:
    errors.UserError: If there is none.
  """
  if encoder.start_token >= 0:
    return encoder.start_token
  if "bos" not in roles:
    raise errors.UserError(
        "The tokeniser has no bos for answers to begin with: set model.start_token.")
  return roles["bos"]


def fill(batch: Batch, batch_size: int, pad_token: int) -> Batch:
  """Adds rows of padding, of weight 0, up to B; their encoder inputs have one token."""
  missing = batch_size - len(batch["inputs"])
  empty = {"weights": 0, "documents": -1, "encoder_counts": 1}
  return {
      name: np.pad(value, ((0, missing), *((0, 0),) * (value.ndim - 1)),
                   constant_values=empty.get(name, pad_token))
      for name, value in batch.items()}


def _buckets(
    counts: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
  """Each length, and which rows have it as the first that holds them."""
  places = np.searchsorted(lengths, counts)
  for place, length in enumerate(lengths):
    yield length, np.flatnonzero(places == place)


def _empty(count: int, length: int, roles: Roles) -> Rows:
  shape = (count, length)
  return Rows(np.full(shape, roles["pad"], np.int32),
              np.full(shape, roles["pad"], np.int32), np.full(shape, -1, np.int32))


def _write(rows: Rows, row: int, tokens: np.ndarray, first: int, document: int) -> None:
  """One row, whose targets count from the `first` on."""
  size = len(tokens) - 1
  rows.inputs[row, :size] = tokens[:-1]
  rows.targets[row, :size] = tokens[1:]
  rows.documents[row, first:size] = document
