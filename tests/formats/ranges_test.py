"""Tests that of a leaf in a file only the entries that are asked for are read."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import safetensors.numpy
import torch

from transfer_gen import errors
from transfer_gen.formats import detect
from transfer_gen.formats import ranges

TABLE = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)


def _bytes_read():
  """Returns how many bytes this process has read, as Linux counts them."""
  with open("/proc/self/io", encoding="ascii") as file:
    return int(file.readline().split()[1])


def _shapes():
  return st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)


@hypothesis.given(shape=_shapes(), data=st.data())
@hypothesis.settings(max_examples=200, deadline=None)
def test_ranges_are_the_bytes_of_the_entries_in_order(shape, data):
  entries = tuple(np.array(sorted(data.draw(st.sets(
      st.integers(0, n - 1))))).astype(int) for n in shape)
  numbers = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)

  found = ranges.of(shape, 4, entries)

  read = b"".join(numbers.tobytes()[start:start + size]
                  for start, size in zip(*found))
  assert read == numbers[np.ix_(*entries)].tobytes()
  # No two of them touch, so that each is one call.
  assert (found.starts[1:] > (found.starts + found.sizes)[:-1]).all()


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_bridges_keep_all_ranges_and_add_at_most_a_sixteenth(data):
  steps = data.draw(st.lists(st.tuples(
      st.integers(1, 10**5), st.integers(1, 10**5)), min_size=1, max_size=20))
  ends = np.cumsum([gap + size for gap, size in steps])
  sizes = np.array([size for _, size in steps])
  found = ranges.Ranges(ends - sizes, sizes)

  read = ranges.bridged(found)

  for start, size in zip(*found):
    assert any(a <= start and start + size <= a + b for a, b in zip(*read))
  assert sizes.sum() <= read.sizes.sum() <= sizes.sum() * 17 / 16


def _safetensors(folder):
  safetensors.numpy.save_file({"table": TABLE}, folder / "model.safetensors")
  return folder / "model.safetensors"


def _npz(folder):
  np.savez(folder / "model.npz", table=TABLE)
  return folder / "model.npz"


def _turned_npy(folder):
  np.save(folder / "table.npy", np.asfortranarray(TABLE))
  np.save(folder / "other.npy", np.zeros(3))
  return folder


def _torch(folder):
  torch.save({"table": torch.tensor(TABLE)}, folder / "model.bin")
  return folder / "model.bin"


def _turned_torch(folder):
  torch.save({"table": torch.tensor(np.ascontiguousarray(TABLE.T)).T},
             folder / "model.bin")
  return folder / "model.bin"


@pytest.mark.parametrize("write", [
    _safetensors, _npz, _turned_npy, _torch, _turned_torch])
@pytest.mark.parametrize("rows, columns", [
    (np.arange(100, 200), np.arange(300)), (np.arange(400), np.arange(150, 300)),
    (np.array([3, 4, 9, 399]), np.arange(300)), (np.array([7]), np.array([1, 299]))])
def test_a_part_of_a_leaf_reads_at_most_a_tenth_more(tmp_path, write, rows, columns):
  raw = detect.opener_of(write(tmp_path))()
  dict(raw.read(["table"], {"table": (rows[:1], columns[:1])}))  # Imports, once.

  before = _bytes_read()
  ((_, value),) = raw.read(["table"], {"table": (rows, columns)})
  read = _bytes_read() - before

  assert value.tobytes() == TABLE[np.ix_(rows, columns)].tobytes()
  # Some of it is this function reading the count.
  assert value.nbytes <= read <= 1.1 * value.nbytes + 300


@pytest.mark.parametrize("compressed", [False, True])
def test_a_leaf_that_has_no_ranges_gives_the_same_part(tmp_path, compressed):
  path = tmp_path / ("model.npz" if compressed else "model.bin")
  if compressed:
    np.savez_compressed(path, table=TABLE)
  else:  # A view with gaps.
    wide = torch.tensor(np.repeat(TABLE, 2, axis=1))
    torch.save({"table": wide[:, ::2]}, path)
  raw = detect.opener_of(path)()
  entries = np.array([0, 5]), np.arange(7, 9)

  ((_, value),) = raw.read(["table"], {"table": entries})

  np.testing.assert_array_equal(value, TABLE[np.ix_(*entries)])


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_leaf(tmp_path, caplog):
  table = TABLE.copy()
  table[200, 31] = np.nan
  safetensors.numpy.save_file({"table": table}, tmp_path / "model.safetensors")
  raw = detect.opener_of(tmp_path / "model.safetensors")()

  dict(raw.read(["table"], {"table": (np.arange(150, 250), np.array([30, 31, 32]))}))

  assert "the first at [200, 31]" in caplog.text


def test_a_part_beyond_the_end_of_a_cut_file_is_refused(tmp_path):
  raw = detect.opener_of(_safetensors(tmp_path))()
  whole = (tmp_path / "model.safetensors").read_bytes()
  (tmp_path / "model.safetensors").write_bytes(whole[:-1000])

  with pytest.raises(errors.UserError, match="ends .* bytes early"):
    dict(raw.read(["table"], {"table": (np.arange(390, 400), np.arange(300))}))
