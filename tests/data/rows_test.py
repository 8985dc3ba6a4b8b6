"""Tests for packed rows: what they hold, and how full they are."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from transfer_gen.data import rows

MARKED = {"pad": 0, "bos": 1, "eos": 2, "sep": 3}
UNMARKED = {"pad": 0}
TEXTS = st.lists(
    st.lists(st.integers(4, 9), max_size=11).map(lambda ids: np.array(ids, np.int32)),
    min_size=1, max_size=9)
ROLES = st.sampled_from([MARKED, UNMARKED])


def marked(text, roles):
  return [1, *text.tolist(), 2] if "bos" in roles else text.tolist()


def pieces(packed):
  """Yields (document, inputs, targets) of each stretch in which positions count up."""
  size = packed.inputs.shape[1]
  positions = packed.positions
  if positions is None:
    positions = np.broadcast_to(np.arange(size), packed.inputs.shape)
  for row, owners in enumerate(packed.documents):
    counts = owners >= 0
    starts = np.flatnonzero(counts & (positions[row] == 0)).tolist()
    used = int(counts.sum())
    assert counts[:used].all()  # Padding comes last.
    for start, end in zip(starts, [*starts[1:], used]):
      assert positions[row, start:end].tolist() == [*range(end - start)]
      (document,) = set(owners[start:end].tolist())
      yield (document, packed.inputs[row, start:end].tolist(),
             packed.targets[row, start:end].tolist())


@hypothesis.given(TEXTS, ROLES, st.integers(2, 6))
def test_each_document_is_packed_once_whole_or_in_pieces_of_a_row(texts, roles, length):
  found = sorted(pieces(rows.pack(texts, roles, length)))

  wanted = []
  for document, text in enumerate(texts):
    tokens = marked(text, roles)
    wanted += [(document, tokens[start:start + length][:len(tokens) - 1 - start],
                tokens[start + 1:start + 1 + length])
               for start in range(0, len(tokens) - 1, length)]
  assert found == sorted(wanted)


@hypothesis.given(TEXTS, ROLES, st.integers(2, 6))
def test_no_two_rows_would_fit_into_one(texts, roles, length):
  packed = rows.pack(texts, roles, length)

  used = sorted((packed.documents >= 0).sum(1).tolist())
  assert len(used) == 1 or used[0] + used[1] > length


@hypothesis.given(TEXTS, ROLES, st.integers(2, 6))
def test_positions_are_left_out_where_each_row_holds_one_piece(texts, roles, length):
  packed = rows.pack(texts, roles, length)

  alone = len([*pieces(packed)]) <= len(packed)
  assert (packed.positions is None) == alone
  assert ("positions" in packed.batch(np.array([0]))) == (not alone)


@pytest.mark.parametrize("sizes, length, count", [
    ([6, 4, 3, 3, 2, 2], 10, 2), ([5, 5, 5, 5], 10, 2), ([7, 6, 3, 4], 10, 2)])
def test_pieces_that_fill_rows_exactly_leave_no_padding(sizes, length, count):
  texts = [np.full(size - 1, 5, np.int32) for size in sizes]

  packed = rows.pack(texts, MARKED, length)

  assert packed.inputs.shape == (count, length) and (packed.documents >= 0).all()


@hypothesis.given(TEXTS, ROLES, st.integers(2, 6))
def test_joined_rows_are_one_stream_of_all_documents(texts, roles, length):
  joined = rows.join(texts, roles, length)

  stream = [token for text in texts for token in marked(text, roles)]
  size = max(len(stream) - 1, 0)
  assert joined.positions is None
  assert joined.inputs.reshape(-1)[:size].tolist() == stream[:-1]
  assert joined.targets.reshape(-1)[:size].tolist() == stream[1:]
  assert len(joined) == max(1, -(-size // length))


def test_rows_that_fill_up_a_batch_have_no_weight():
  packed = rows.pack([np.array([5], np.int32)] * 3, MARKED, 4)

  batch = rows.fill_batch(
      packed.batch(np.arange(len(packed))), 4, pad_token=7, encoder_pad=7)

  assert batch["positions"].shape == (4, 4)
  assert not batch["weights"][len(packed):].any()
  assert not batch["positions"][len(packed):].any()
