"""Tests for every layout: shape, inverse, and behavior under jit."""

import dataclasses
import json

import hypothesis
from hypothesis import strategies as st
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.maps import layouts
from transfer_gen.transfer import plan_json

Chain, Flatten, Halve = layouts.Chain, layouts.Flatten, layouts.Halve
Interleave, Part, Permute = layouts.Interleave, layouts.Part, layouts.Permute
Stack, Transpose = layouts.Stack, layouts.Transpose
Unflatten, Unstack = layouts.Unflatten, layouts.Unstack

QUERY = Chain(parts=(Part(dim=1, parts=3, index=0), Unflatten(dim=1, shape=(2, 4))))
# Layout, shapes of its sources, shape of its target.
CASES = {
    "copy": (layouts.COPY, [(3, 4)], (3, 4)),
    "scalar": (layouts.COPY, [()], ()),
    "transpose": (Transpose(perm=(2, 0, 1)), [(2, 3, 4)], (4, 2, 3)),
    "unflatten": (Unflatten(dim=1, shape=(2, 3)), [(4, 6, 5)], (4, 2, 3, 5)),
    "unflatten one": (Unflatten(dim=1, shape=()), [(4, 1)], (4,)),
    "flatten": (Flatten(dim=1), [(4, 2, 3, 5)], (4, 6, 5)),
    "flatten three": (Flatten(dim=0, count=3), [(4, 2, 3)], (24,)),
    "part": (Part(dim=1, parts=3, index=2), [(2, 6)], (2, 2)),
    "unequal part": (Part(dim=0, parts=(4, 2, 2), index=1), [(8, 3)], (2, 3)),
    "stack": (Stack(), [(2, 3), (2, 3), (2, 3)], (3, 2, 3)),
    "stack last": (Stack(dim=2), [(2, 3), (2, 3)], (2, 3, 2)),
    "unstack": (Unstack(index=1), [(3, 2, 4)], (2, 4)),
    "unstack last": (Unstack(index=0, dim=2), [(3, 2, 4)], (3, 2)),
    "permute": (Permute(dim=1, index=(0, 2, 3, 1)), [(3, 4, 2)], (3, 4, 2)),
    "interleave": (Interleave(dim=1), [(2, 6)], (2, 6)),
    "interleave some": (Interleave(dim=0, size=4), [(7, 2)], (7, 2)),
    "halve": (Halve(dim=1), [(2, 6)], (2, 6)),
    "halve some": (Halve(dim=1, size=2), [(2, 6)], (2, 6)),
    "query of a fused kernel": (QUERY, [(5, 24)], (5, 2, 4)),
    "rotary query of torch": (Chain(parts=(
        Transpose(perm=(1, 0)), Unflatten(dim=1, shape=(2, 6)), Halve(dim=2))),
                              [(12, 5)], (5, 2, 6)),
    "gates of a fused kernel": (Chain(parts=(
        Part(dim=0, parts=(3, 2), index=1), Unflatten(dim=1, shape=(4, 2)),
        Permute(dim=1, index=(0, 2, 1, 3)))), [(5, 8)], (2, 4, 2)),
    "kernels re-laid": (Chain(parts=(
        Unflatten(dim=1, shape=(4, 2)), Transpose(perm=(1, 0, 2)), Flatten(dim=1),
        Unflatten(dim=1, shape=(2, 3)), Transpose(perm=(2, 0, 1)))),
                        [(3, 8)], (3, 4, 2)),
    "stack of transposed": (Chain(parts=(Stack(), Transpose(perm=(0, 2, 1)))),
                            [(2, 3), (2, 3)], (2, 3, 2)),
    "square seen anew": (Chain(parts=(Flatten(dim=0), Unflatten(dim=0, shape=(3, 3)))),
                         [(3, 3)], (3, 3)),
    "square, one row": (Chain(parts=(Flatten(dim=0), Part(dim=0, parts=3, index=1))),
                        [(3, 3)], (3,)),
}
ALL = pytest.mark.parametrize("layout, shapes, target", CASES.values(), ids=CASES)


def test_these_tests_cover_every_layout():
  seen = set()

  def walk(layout):
    seen.add(type(layout))
    for part in getattr(layout, "parts", ()) if isinstance(layout, Chain) else ():
      walk(part)

  for layout, _, _ in CASES.values():
    walk(layout)

  assert seen == {kind for kind in plan_json.KINDS.values()
                  if kind.__module__ == layouts.__name__}


def _values(shapes, dtype=np.float32):
  """Returns arrays in which no value occurs twice."""
  sizes = [int(np.prod(shape)) for shape in shapes]
  values = np.random.default_rng(0).permutation(sum(sizes)).astype(dtype)
  parts = np.split(values, np.cumsum(sizes)[:-1])
  return [part.reshape(shape) for part, shape in zip(parts, shapes)]


@ALL
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int8])
def test_eval_shape_predicts_shape_and_dtype(layout, shapes, target, dtype):
  value = layout(*_values(shapes, dtype))

  assert isinstance(value, np.ndarray)
  assert value.shape == target == layouts.shape(layout, *shapes)
  spec = jax.eval_shape(
      layout, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
  assert (value.shape, value.dtype) == (spec.shape, spec.dtype)


@ALL
def test_a_layout_only_moves_elements(layout, shapes, target):
  sources = _values(shapes)

  value = layout(*sources).reshape(-1)

  everything = np.concatenate([source.reshape(-1) for source in sources])
  assert len(set(value.tolist())) == value.size  # No element is used twice.
  assert set(value.tolist()) <= set(everything.tolist())


@ALL
def test_numpy_and_jit_give_the_same_values(layout, shapes, target):
  sources = _values(shapes)
  with jax.numpy_dtype_promotion("strict"):
    jitted = jax.jit(layout)(*map(jnp.asarray, sources))

  np.testing.assert_array_equal(jitted, layout(*sources))


@ALL
def test_the_inverse_of_a_layout_is_bit_exact(layout, shapes, target):
  # Random bits include NaNs with a payload; a comparison of numbers would not see it.
  bits = [np.random.default_rng(0).integers(0, 2**32, shape, np.uint32)
          for shape in shapes]
  sources = [np.asarray(array).view(np.float32) for array in bits]
  value = layout(*sources)
  buffers = [np.full(shape, 7, np.float32) for shape in shapes]
  written = [np.zeros(shape, bool) for shape in shapes]

  layouts.write(layout, value, buffers, written)

  read = layout(*(np.ones(shape, bool) for shape in shapes)).size
  assert sum(mask.sum() for mask in written) == read
  for buffer, source, done in zip(buffers, bits, written):
    np.testing.assert_array_equal(buffer.view(np.uint32)[done], source[done])
    assert (buffer[~done] == 7).all()  # Elements that were not read stay untouched.
  assert layout(*buffers).tobytes() == value.tobytes()


@st.composite
def random_layouts(draw):
  """Draws a chain of layouts, and the shape that it applies to."""
  shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
  parts, now = [], shape
  for _ in range(draw(st.integers(0, 5))):
    dim = draw(st.integers(0, len(now) - 1))
    size = now[dim]
    divisor = draw(st.sampled_from(
        [number for number in range(1, size + 1) if size % number == 0]))
    options = [
        Transpose(perm=tuple(draw(st.permutations(range(len(now)))))),
        Unflatten(dim=dim, shape=(divisor, size // divisor)),
        Permute(dim=dim, index=tuple(draw(st.permutations(range(size))))),
        Part(dim=dim, parts=divisor, index=draw(st.integers(0, divisor - 1)))]
    if dim + 1 < len(now):
      options.append(Flatten(dim=dim))
    if size % 2 == 0:
      options += [Halve(dim=dim), Interleave(dim=dim)]
    if len(now) > 1:
      options.append(Unstack(dim=dim, index=draw(st.integers(0, size - 1))))
    parts.append(draw(st.sampled_from(options)))
    now = layouts.shape(parts[-1], now)
  return Chain(parts=tuple(parts)), shape


@hypothesis.given(case=random_layouts())
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_chain_of_layouts_has_an_inverse(case):
  layout, shape = case
  source, = _values([shape])
  value = layout(source)
  buffer, written = np.full(shape, -1, np.float32), np.zeros(shape, bool)

  layouts.write(layout, value, [buffer], [written])

  np.testing.assert_array_equal(buffer, np.where(written, source, -1))
  assert written.sum() == value.size


@hypothesis.given(pairs=st.integers(1, 9), rest=st.integers(0, 3))
def test_halve_inverts_interleave(pairs, rest):
  halves = np.arange(2 * pairs + rest)
  interleaved = Interleave(dim=0, size=2 * pairs)(halves)

  assert interleaved[:2].tolist() == [0, pairs]
  assert interleaved[2 * pairs:].tolist() == halves[2 * pairs:].tolist()
  np.testing.assert_array_equal(Halve(dim=0, size=2 * pairs)(interleaved), halves)


def test_several_targets_are_written_back_into_one_source():
  source = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
  buffer, written = np.zeros_like(source), np.zeros(source.shape, bool)

  for index in (2, 0, 1):
    layout = Chain(parts=(
        Part(dim=1, parts=3, index=index), Unflatten(dim=1, shape=(2, 4))))
    assert not written.all()
    layouts.write(layout, layout(source), [buffer], [written])

  assert written.all()
  np.testing.assert_array_equal(buffer, source)


@pytest.mark.parametrize("second, wrong", [
    ([[1, np.nan], [-0.0, 4]], False), ([[1, np.nan], [0.0, 4]], True)])
def test_elements_written_twice_must_have_equal_bits(second, wrong):
  buffer, written = np.zeros((2, 2), np.float32), np.zeros((2, 2), bool)
  first = np.array([[1, np.nan], [-0.0, 4]], np.float32)
  layouts.write(layouts.COPY, first, [buffer], [written])
  again = np.array(second, np.float32).T

  if wrong:
    with pytest.raises(errors.UserError, match="disagree"):
      layouts.write(Transpose(perm=(1, 0)), again, [buffer], [written])
  else:
    layouts.write(Transpose(perm=(1, 0)), again, [buffer], [written])
    assert buffer.tobytes() == first.tobytes()


MISFITS = [
    (Transpose(perm=(0, 1)), [(2, 3, 4)], "perm"),
    (Unflatten(dim=1, shape=(2, 2)), [(4, 6)], "dimension 1 of 6 is not 2 x 2"),
    (Unflatten(dim=0, shape=(-2, -2)), [(4,)], "is not"),
    (Flatten(dim=1), [(4, 6)], "no dimensions 1 to 2"),
    (Part(dim=1, parts=4, index=0), [(4, 6)], "does not divide"),
    (Part(dim=1, parts=(4, 3), index=0), [(4, 6)], "does not divide"),
    (Part(dim=1, parts=2, index=2), [(4, 6)], "no part 2 of 2"),
    (Part(dim=1, parts=2, index=-1), [(4, 6)], "no part -1"),
    (Stack(), [(2, 3), (3, 2)], "several shapes"),
    (Stack(dim=3), [(2, 3), (2, 3)], "no dimension 3"),
    (Unstack(index=4), [(4, 6)], "no entry 4 of 4"),
    (Unstack(dim=-1, index=0), [(4, 6)], "no dimension -1"),
    (Permute(dim=0, index=(0, 1, 1)), [(3,)], "is no order of 3 entries"),
    (Halve(dim=0), [(3,)], "no pairs"), (Interleave(dim=0, size=8), [(6,)], "no pairs"),
    (layouts.COPY, [(2,), (2,)], "2 leaves do not become one"),
    (Transpose(perm=(0,)), [(2,), (2,)], "argument"),
]


@pytest.mark.parametrize(
    "layout, shapes, why", MISFITS, ids=[f"{m[0]}-{m[1]}" for m in MISFITS])
def test_a_layout_that_does_not_fit_is_refused(layout, shapes, why):
  with pytest.raises(errors.UserError, match="does not fit") as error:
    layouts.shape(layout, *shapes)

  assert why in str(error.value) and str(shapes[0]) in str(error.value)


def test_writing_a_value_of_the_wrong_shape_is_refused():
  with pytest.raises(errors.UserError, match=r"reads \(3, 2\), not \(2, 3\)"):
    layouts.write(Transpose(perm=(1, 0)), np.zeros((2, 3)),
                  [np.zeros((2, 3))], [np.zeros((2, 3), bool)])


@ALL
def test_a_layout_is_hashable_and_round_trips_through_json(layout, shapes, target):
  data = json.loads(json.dumps(plan_json.encode(layout)))

  assert plan_json.decode(data, {}) == layout
  assert hash(plan_json.decode(data, {})) == hash(layout)
  with pytest.raises(dataclasses.FrozenInstanceError):
    layout.dim = 1
  assert layouts.describe(QUERY) == (
      "Part(dim=1, parts=3, index=0), Unflatten(dim=1, shape=(2, 4))")
