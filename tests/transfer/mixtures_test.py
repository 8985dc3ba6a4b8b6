"""Tests for new tokens as weighted sums of source tokens, against direct sums."""

import json

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import axes
from transfer_gen.transfer import entries
from transfer_gen.transfer import mixtures
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

SETTINGS = hypothesis.settings(
    derandomize=True, deadline=None, database=None)
Mixture, Vocabulary = plan_lib.Mixture, vocabulary.Vocabulary
SOURCE = Vocabulary(tokens=(b"", b" do", b"g", b"s", b" cat", b"!"), roles={"eos": 0})
TARGET = Vocabulary(
    tokens=(b" dogs", b"", b" cat", b"qq", b" do", b" cats", b"s", b""),
    roles={"eos": 1, "pad": 7}, counts=np.array([1, 9, 30, 2, 50, 3, 5, 0]))


def _bind(axis_map, source_rows=6, target_rows=8, source=SOURCE, target=TARGET):
  return axis_map.bind(plan_lib.AxisSizes(
      axis="vocab", source=source_rows, target=target_rows,
      source_vocabulary=source, target_vocabulary=target))


def _made(rows, index, weights):
  return Mixture(rows=np.array(rows, np.int32), index=np.array(index, np.int32),
                 weights=np.array(weights, np.float32))


def _dense(mixture, source, target):
  """Returns the weights of a mixture as a matrix f64[target, source]."""
  matrix = np.zeros((target, source))
  for row, index, weights in zip(mixture.rows, mixture.index, mixture.weights):
    np.add.at(matrix[row], index, weights)
  return matrix


def _vectors(draw, count, width=3):
  """Draws vectors of whole numbers, which are either zero or clearly not."""
  return draw(hnp.arrays(np.float32, (count, width),
                         elements=st.integers(-3, 3).map(float)))


@SETTINGS
@hypothesis.given(hnp.arrays(np.float64, (3, 7), elements=st.floats(-4, 4)))
def test_sparsemax_projects_onto_the_simplex(scores):
  weights = mixtures.sparsemax(scores)

  for row, found in zip(scores, weights):
    # The projection subtracts a threshold; bisection finds it.
    low, high = row.min() - 1, row.max()
    for _ in range(100):
      middle = (low + high) / 2
      over = np.maximum(row - middle, 0).sum() > 1
      low, high = (middle, high) if over else (low, middle)
    np.testing.assert_allclose(found, np.maximum(row - low, 0), atol=1e-9)


def test_pieces_average_the_source_tokens_that_spell_a_new_token():
  found = mixtures.pieces(SOURCE, TARGET)

  expected = np.zeros((8, 6))
  expected[0, [1, 2, 3]] = 1 / 3  # " dogs" is " do", "g", "s".
  expected[5, [4, 3]] = 1 / 2
  assert found.rows.tolist() == [0, 5]
  np.testing.assert_allclose(_dense(found, 6, 8), expected, atol=1e-6)


@st.composite
def _pairs(draw):
  tokens = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f", b"g", b""]),
                    min_size=1, max_size=8, unique=True)
  source, target = draw(tokens), draw(tokens)
  return (Vocabulary(tokens=tuple(source)), Vocabulary(tokens=tuple(target)),
          _vectors(draw, len(source)), _vectors(draw, len(target)))


def _cosine(one, other):
  one, other = one.astype(np.float64), other.astype(np.float64)
  return one @ other / np.sqrt((one @ one) * (other @ other))


@SETTINGS
@hypothesis.given(_pairs())
def test_focus_weights_are_a_sparsemax_over_all_matched_tokens(pair):
  source, target, _, vectors = pair
  usable = [bool(token) and bool(vector.any())
            for token, vector in zip(target.tokens, vectors)]
  matched = [i for i, token in enumerate(target.tokens)
             if usable[i] and token in source.tokens]
  new = [i for i, token in enumerate(target.tokens)
         if usable[i] and token not in source.tokens]
  if not matched:
    with pytest.raises(errors.UserError, match="no token that both"):
      mixtures.focus(source, target, vectors)
    return

  found = mixtures.focus(source, target, vectors)

  assert found.rows.tolist() == new
  expected = np.zeros((len(target.tokens), len(source.tokens)))
  for i in new:
    scores = np.array([_cosine(vectors[i], vectors[j]) for j in matched])
    # Another algorithm than in the package: try each size of the support.
    for number in range(1, len(matched) + 1):
      top = np.sort(scores)[-number:]
      threshold = (top.sum() - 1) / number
      if abs(np.maximum(scores - threshold, 0).sum() - 1) < 1e-9:
        break
    for j, weight in zip(matched, np.maximum(scores - threshold, 0)):
      expected[i, source.tokens.index(target.tokens[j])] += weight
  np.testing.assert_allclose(_dense(found, len(source.tokens), len(target.tokens)),
                             expected, atol=1e-6)
  mixtures.check(found)


@SETTINGS
@hypothesis.given(_pairs(), st.integers(1, 4), st.floats(0.05, 2))
def test_wechsel_weights_are_a_softmax_over_neighbours(pair, neighbours, temperature):
  source, target, source_vectors, target_vectors = pair
  known = [j for j, token in enumerate(source.tokens)
           if token and source_vectors[j].any()]
  hypothesis.assume(known)

  found = mixtures.wechsel(source, target, source_vectors, target_vectors,
                           neighbours, temperature)

  assert found.rows.tolist() == [
      i for i, token in enumerate(target.tokens) if token and target_vectors[i].any()]
  mixtures.check(found)
  dense = _dense(found, len(source.tokens), len(target.tokens))
  for i in found.rows:
    cosines = {j: _cosine(target_vectors[i], source_vectors[j]) for j in known}
    nearest = sorted(cosines.values(), reverse=True)[:neighbours]
    exp = np.exp(np.array(nearest) / temperature)
    assert not dense[i, [j for j in range(len(source.tokens)) if j not in known]].any()
    # Among equally near tokens the choice is free, so compare cosines, then weights.
    used = [j for j in known if dense[i, j] > 0]
    np.testing.assert_allclose(sorted(cosines[j] for j in used), sorted(nearest))
    np.testing.assert_allclose(
        dense[i, used], np.exp([cosines[j] / temperature for j in used]) / exp.sum(),
        rtol=1e-5)


def test_special_tokens_are_excluded_from_mixtures():
  vectors = np.ones((8, 2), np.float32)

  focused = mixtures.focus(SOURCE, TARGET, vectors)
  nearest = mixtures.wechsel(SOURCE, TARGET, np.ones((6, 2), np.float32), vectors)

  assert focused.rows.tolist() == [0, 3, 5]
  assert nearest.rows.tolist() == [0, 2, 3, 4, 5, 6]
  assert not _dense(focused, 6, 8)[:, 0].any() and not _dense(nearest, 6, 8)[:, 0].any()


@pytest.mark.parametrize("call, message", [
    (lambda v: mixtures.focus(SOURCE, TARGET, v(6)), "target has 8 tokens .*6, 2"),
    (lambda v: mixtures.focus(SOURCE, TARGET, v(8) * 0), "no token that both"),
    (lambda v: mixtures.wechsel(SOURCE, TARGET, v(8), v(8)), "source has 6 tokens"),
    (lambda v: mixtures.wechsel(SOURCE, TARGET, v(6), v(8)[:, :1]), "align them first"),
    (lambda v: mixtures.wechsel(SOURCE, TARGET, v(6) * 0, v(8)), "no source token"),
    (lambda v: mixtures.wechsel(SOURCE, TARGET, v(6), v(8), 0), "neighbours=0"),
    (lambda v: mixtures.wechsel(SOURCE, TARGET, v(6), v(8), 1, 0.0), "temperature=0.0"),
])
def test_invalid_mixture_arguments_are_refused(call, message):
  with pytest.raises(errors.UserError, match=message):
    call(lambda count: np.ones((count, 2), np.float32))


@pytest.mark.parametrize("parts, message", [
    (([0, 0], [[1], [1]], [[1], [1]]), "row 0 occurs 2 times"),
    (([0], [[1, 2]], [[1]]), "must be .M., .M, K. and .M, K."),
    (([[0]], [[1]], [[1]]), "must be"),
    (([3], [[1, 2]], [[0.5, 0.4]]), "row 3 sum to 0.9"),
    (([3], [[1]], [[np.nan]]), "row 3 sum to nan"),
])
def test_an_inconsistent_mixture_is_refused(parts, message):
  with pytest.raises(errors.UserError, match=message):
    axes.MatchTokens(mixture=_made(*parts))


@pytest.mark.parametrize("parts, message", [
    (([8], [[1]], [[1]]), "target tokens 8 to 8, .* 0 to 7: it was made for other"),
    (([0], [[6]], [[1]]), "source tokens 6 to 6, .* source's tokenizer has 0 to 5"),
])
def test_a_mixture_for_other_vocabularies_is_refused(parts, message):
  spec = lambda rows: {"embed": tree.Spec(
      shape=(rows, 2), dtype=np.dtype("float32"), axes=("vocab", "embed"),
      reads=(False, False))}
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
      groups=(plan_lib.Group(name="all", params=".*"),),
      axes=(plan_lib.On(axis="vocab", map=axes.MatchTokens(mixture=_made(*parts))),))

  # Tables have padding rows beyond the tokens, which a mixture must not use either.
  with pytest.raises(resolve.PlanError, match=f"axis `vocab`: .*{message}"):
    resolve.resolve(plan, {"": spec(9)}, spec(11), {"": SOURCE, "target": TARGET})


@pytest.mark.parametrize("side, sizes, message", [
    ("source", (5, 8), "source's tokenizer has 6 tokens and the axis `vocab` 5 rows"),
    ("target", (6, 7), "target's tokenizer has 8 tokens and the axis `vocab` 7 rows"),
])
def test_a_missing_or_too_large_tokenizer_is_refused(side, sizes, message):
  with pytest.raises(ValueError, match=message):
    _bind(axes.MatchTokens(), *sizes)
  with pytest.raises(ValueError, match=f"needs the {side}'s tokens"):
    _bind(axes.MatchTokens(), **{side: None})


def test_the_note_counts_matched_mixed_and_padded_rows():
  assert _bind(axes.MatchTokens()).note == "vocab: 4 of 8 matched (94.0% of the text)"
  assert _bind(axes.MatchTokens(fresh="pieces"), 6, 11).note == (
      "vocab: 4 of 8 matched (94.0% of the text), 2 mixed, 3 padded")
  silent = Vocabulary(tokens=TARGET.tokens, roles=TARGET.roles)
  assert _bind(axes.MatchTokens(), target=silent).note == "vocab: 4 of 8 matched"


def test_every_mixed_row_lists_its_origins():
  mixture = _made([3], [[4, 5]], [[0.75, 0.25]])

  binding = _bind(axes.MatchTokens(fresh="pieces", mixture=mixture), 6, 9)

  assert dict(binding.origins) == {
      0: "b' dogs': mean of b' do', b'g', b's'",
      3: "b'qq': 0.75 b' cat' + 0.25 b'!'",
      5: "b' cats': mean of b' cat', b's'",
      7: "pad: mean of all rows",
      8: "padding: mean of all rows"}
  assert len(binding.origins) == 5 and 2 not in binding.origins
  drawn = _bind(axes.MatchTokens(), 6, 9).origins
  assert drawn[3] == "b'qq': drawn around the mean of all rows"
  assert drawn[8] == "padding: mean of all rows"
  many = _made([3], [np.arange(6).repeat(2)], [[0.3] + [0.7 / 11] * 11])
  assert _bind(axes.MatchTokens(mixture=many)).origins[3].endswith(" of 6 more")


def test_a_mixture_overrides_matches_and_pieces_fill_the_rest():
  mixture = _made([2, 5], [[1, 3], [2, 0]], [[0.5, 0.5], [1, 0]])

  binding = _bind(axes.MatchTokens(fresh="pieces", mixture=mixture))

  assert binding.index.tolist() == [-1, 0, -1, -1, 1, -1, 3, -1]
  expected = np.zeros((8, 6))
  expected[2, [1, 3]], expected[5, 2], expected[0, [1, 2, 3]] = 0.5, 1, 1 / 3
  np.testing.assert_allclose(_dense(binding.mixture, 6, 8), expected, atol=1e-6)


@pytest.mark.parametrize("fresh", ["mean", "pieces", "normal", "covariance"])
@pytest.mark.parametrize("dim", [0, 1])
def test_rows_are_copied_mixed_or_filled_as_configured(fresh, dim):
  mixture = _made([3], [[4, 5, 0]], [[0.75, 0.25, 0]])
  binding = _bind(axes.MatchTokens(fresh=fresh, mixture=mixture), 6, 10)
  value = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

  made = entries.apply(value if dim == 0 else value.T, binding, dim, False,
                    jax.random.key(0))

  made = np.asarray(made if dim == 0 else made.T)
  mean = value.astype(np.float64).mean(0)
  np.testing.assert_array_equal(made[[1, 2, 4, 6]], value[[0, 4, 1, 3]])
  np.testing.assert_allclose(made[3], 0.75 * value[4] + 0.25 * value[5], rtol=1e-6)
  # Padding rows belong to no token and always get the mean.
  np.testing.assert_allclose(made[8:], [mean] * 2, atol=1e-6)
  if fresh == "pieces":
    np.testing.assert_allclose(made[0], value[1:4].mean(0), atol=1e-6)
    np.testing.assert_allclose(made[5], value[3:5].mean(0), atol=1e-6)
    np.testing.assert_allclose(made[7], mean, atol=1e-6)
  elif fresh == "mean":
    np.testing.assert_allclose(made[[0, 5, 7]], [mean] * 3, atol=1e-6)
  else:
    assert (np.abs(made[[0, 5, 7]] - mean).max(axis=1) > 1e-3).all()


def test_drawn_rows_have_the_covariance_of_the_source():
  rng = np.random.default_rng(0)
  shape = np.array([[2, 1, 0], [0, 1, 0.5], [0, 0, 0.1]])
  value = (rng.normal(size=(4000, 3)) @ shape + [5, -3, 0]).astype(np.float32)
  target = Vocabulary(tokens=tuple(b"t%d" % i for i in range(20000)))
  source = Vocabulary(tokens=tuple(b"s%d" % i for i in range(4000)))
  binding = _bind(axes.MatchTokens(fresh="covariance"), 4000, 20000, source, target)

  made = np.asarray(entries.apply(value, binding, 0, False, jax.random.key(1)))

  np.testing.assert_allclose(made.mean(0), value.mean(0), atol=0.05)
  np.testing.assert_allclose(np.cov(made.T), np.cov(value.T), atol=0.1)
  assert abs(np.cov(value.T)[0, 1]) > 1  # Independent columns would have 0 here.


def test_a_plan_with_a_mixture_round_trips_through_json():
  mixture = mixtures.focus(SOURCE, TARGET, np.random.default_rng(0).normal(size=(8, 3)))
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
      groups=(plan_lib.Group(name="all", params=".*"),),
      axes=(plan_lib.On(axis="vocab", map=axes.MatchTokens(mixture=mixture)),))

  written = json.loads(json.dumps(plan_lib.to_json(plan)))
  again = plan_lib.from_json(written, plan_lib.arrays(plan))

  assert len(plan_lib.arrays(plan)) == 3
  found = again.axes[0].map.mixture
  for field in ("rows", "index", "weights"):
    np.testing.assert_array_equal(getattr(found, field), getattr(mixture, field))
  assert plan_lib.fingerprint(again) == plan_lib.fingerprint(plan)
  assert _bind(again.axes[0].map).note == _bind(plan.axes[0].map).note
