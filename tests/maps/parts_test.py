"""Tests that a part of a leaf is made of the entries that it needs alone."""

import hypothesis
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests.maps import layouts_test
from transfer_gen import sharding
from transfer_gen.maps import layouts
from transfer_gen.maps import parts

ALL = pytest.mark.parametrize(
    "layout, shapes, target", layouts_test.CASES.values(), ids=layouts_test.CASES)


def _numbered(shapes):
  """Returns arrays whose elements are all different."""
  sizes = [int(np.prod(shape)) for shape in shapes]
  starts = np.cumsum([0, *sizes])
  return [np.arange(start, start + size).reshape(shape)
          for start, size, shape in zip(starts, sizes, shapes)]


def _needed(layout, shapes, entries):
  """Returns what a part needs, from the origin of each of its elements."""
  found = []
  numbers = _numbered(shapes)
  origins = layout(*numbers)[np.ix_(*entries)].reshape(-1)
  for source in numbers:
    mine = np.isin(source, origins)
    found.append(tuple(np.unique(at) for at in np.nonzero(mine)) if source.ndim else ())
  return found


def _draw(data, shape):
  return tuple(np.array(sorted(data.draw(st.sets(
      st.integers(0, n - 1), min_size=1)))) for n in shape)


def _check(layout, shapes, entries):
  """Checks what a part needs, and that it can be made of that."""
  needed = parts.needed(layout, shapes, entries)
  for found, expected in zip(needed, _needed(layout, shapes, entries), strict=True):
    if all(map(len, found)) or any(map(len, expected)):
      assert [at.tolist() for at in found] == [at.tolist() for at in expected]
  numbers = _numbered(shapes)
  held = [parts.Part(mine, source[np.ix_(*mine)])
          for mine, source in zip(needed, numbers)]

  made = parts.made(layout, shapes, entries, held)

  assert made.entries == entries
  np.testing.assert_array_equal(made.value, layout(*numbers)[np.ix_(*entries)])


@ALL
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=12, deadline=None)
def test_a_part_is_made_of_the_smallest_parts_of_its_sources(
    layout, shapes, target, data):
  _check(layout, shapes, _draw(data, target))


@hypothesis.given(case=layouts_test.random_layouts(), data=st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_part_of_any_chain_of_layouts_is_made_of_what_it_needs(case, data):
  layout, shape = case

  _check(layout, [shape], _draw(data, layouts.shape(layout, shape)))


def test_what_is_needed_is_found_without_enumerating_elements():
  # For 2**40 elements, an index of every element would not fit into memory.
  layout = layouts.Chain(parts=(
      layouts.Part(dim=1, parts=3, index=1), layouts.Unflatten(dim=1, shape=(4, 8)),
      layouts.Transpose(perm=(1, 2, 0))))
  shape = 2**40 // 96, 96

  needed, = parts.needed(
      layout, [shape], (np.array([2, 3]), np.arange(8), np.array([5, 2**30])))

  assert needed[0].tolist() == [5, 2**30]
  assert needed[1].tolist() == list(range(32 + 16, 32 + 32))


@pytest.mark.parametrize("axis", [0, 1])
def test_picked_entries_are_placed_as_a_gather_of_the_whole_would_be(axis):
  mesh = sharding.make_mesh(data=1, fsdp=2, tensor=4)
  value = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
  pick = {axis: np.array([5, 5, -1, 0, 2, -2, 1, 4], np.int32)}
  where = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*(["tensor", None] if axis == 0 else
                                         ["fsdp", "tensor"])))

  entries = parts.wanted(value.shape, where, pick)
  placed = parts.place(
      parts.Part(entries, value[np.ix_(*entries)]), value.shape, where, pick)

  assert entries[axis].tolist() == [0, 1, 2, 4, 5]  # Not 3, which nobody takes.
  expected = np.where(
      np.expand_dims(pick[axis] < 0, 1 - axis), 0,
      np.asarray(jnp.take(value, np.maximum(pick[axis], 0), axis=axis)))
  np.testing.assert_array_equal(placed, expected)
  assert placed.sharding == where
