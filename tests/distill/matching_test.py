"""Tests for what a teacher adds to a loss, against independent float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from transfer_gen import errors
from transfer_gen.distill import matching

B, T, V, W, D, E, K, M, S = 2, 4, 5, 7, 3, 6, 3, 2, 3
_generator = np.random.default_rng(0)
_normal = lambda *shape: _generator.normal(size=shape)


def _softmax(x):
  powers = np.exp(x - x.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def _mixture(count):
  return dict(zip(matching.MIXTURE, (
      _normal(B, T, count), _normal(B, T, count, 2), 0.5 * _normal(B, T, count, 2),
      _normal(B, T, count))))


CHANCES = _softmax(_normal(B, T, V))
CHANCES[0, 0] = [0.5, 0, 0.25, 0.25, 0]  # Zeros count for nothing.
SORTED = -np.sort(-_softmax(_normal(B, T, W)))
STATES, KERNEL = _normal(B, T, D), _normal(D, E)
OWN, THEIRS = _normal(B, T, E), _normal(B, T, E)
# 4 heads of 3 features and 6 heads of 5: the largest common number is 2.
OWN_HEADS, THEIR_HEADS = _normal(B, T, 4, 3), _normal(B, T, 6, 5)
PARTS = ("query", "key", "value")
THEIR_PARTS = {name: _normal(B, T, 2, 4) for name in PARTS}
POSITIONS = np.array([[0, 1, 0, 1], [0, 1, 2, 3]], np.int32)
OTHER, SAMPLES = _mixture(M + 1), _normal(S, B, T, 2)
# Different for each position, so that no gradient hides behind another.
TILT = 1 + np.arange(B * T).reshape(B, T) / 7


def _divergence(logits, t=1.0):
  found = np.zeros((B, T))
  for b, t_, v in np.ndindex(B, T, V):
    p, q = CHANCES[b, t_, v], _softmax(logits[b, t_] / t)[v]
    found[b, t_] += t * t * p * np.log(p / q) if p else 0
  return found


def _sorted_distance(logits):
  own = -np.sort(-_softmax(logits / 2.0))
  return np.abs(np.pad(own, ((0, 0), (0, 0), (0, W - V))) - SORTED).sum(-1)


def _relation_divergence(own, theirs=THEIR_HEADS, heads=2, positions=None):
  found = np.zeros((B, T))
  for b, t, r in np.ndindex(B, T, heads):
    begin = 0 if positions is None else t - positions[b, t]
    q, p = (_softmax(rows[begin:t + 1, r] @ rows[t, r] / rows.shape[-1] ** 0.5)
            for rows in (x[b].reshape(T, heads, -1) for x in (own, theirs)))
    found[b, t] += (p * np.log(p / q)).sum() / heads
  return found


def _density(mixture, b, t, x):
  logits, means, log_scales, slants = (mixture[name][b, t] for name in matching.MIXTURE)
  total = 0.0
  for weight, mean, scale, slant in zip(
      _softmax(logits), means, np.exp(log_scales), np.tanh(slants)):
    cross = slant * scale[0] * scale[1]
    total = total + weight * stats.multivariate_normal.pdf(
        x, mean, [[scale[0] ** 2, cross], [cross, scale[1] ** 2]])
  return total


def _mixture_divergence(*arrays):
  own, found = dict(zip(matching.MIXTURE, arrays)), np.zeros((B, T))
  for b, t, s in np.ndindex(B, T, S):
    f, g = (_density(one, b, t, SAMPLES[s, b, t]) for one in (OTHER, own))
    found[b, t] += np.log(f / g) / S
  return found


def _parts(*arrays):
  return dict(zip(PARTS, arrays))


# Each: our function of the arrays that are differentiated, those, and the reference.
# `+X` is a new array, of which JAX has not kept a float32 copy.
CASES = {
    "divergence": (lambda x: matching.divergence(+CHANCES, x, 1.0), (_normal(B, T, V),),
                   _divergence),
    "divergence_softened": (
        lambda x: matching.divergence(+CHANCES, x, 3.0), (3 * _normal(B, T, V),),
        lambda x: _divergence(x, 3.0)),
    "sorted_distance": (
        lambda x: matching.sorted_distance(+SORTED, x, 2.0), (3 * _normal(B, T, V),),
        _sorted_distance),
    "squared_distance": (
        lambda x: matching.squared_distance(x, +THEIRS), (OWN,),
        lambda x: np.linalg.norm(x - THEIRS, axis=-1) ** 2 / E),
    "squared_distance_projected": (
        lambda x, w: matching.squared_distance(matching.projected(x, w), +THEIRS),
        (STATES, KERNEL), lambda x, w: ((
            np.einsum("btd,de->bte", x, w) - THEIRS) ** 2).sum(-1) / E),
    "angular_distance": (
        lambda x: matching.angular_distance(x, +THEIRS), (OWN,),
        lambda x: 1 - (x * THEIRS).sum(-1) / np.linalg.norm(x, axis=-1)
        / np.linalg.norm(THEIRS, axis=-1)),
    "relation_divergence": (
        lambda x: matching.relation_divergence(x, +THEIR_HEADS), (OWN_HEADS,),
        _relation_divergence),
    "relation_divergence_packed": (
        lambda x: matching.relation_divergence(x, +THEIR_HEADS, POSITIONS),
        (OWN_HEADS,), lambda x: _relation_divergence(x, positions=POSITIONS)),
    "attention_divergence": (
        lambda *x: matching.attention_divergence(
            _parts(*x), {name: +value for name, value in THEIR_PARTS.items()}),
        tuple(_normal(B, T, 2, 4) for _ in PARTS),
        lambda *x: sum(_relation_divergence(own, THEIR_PARTS[name]) / 3
                       for name, own in _parts(*x).items())),
    "mixture_divergence": (
        lambda *x: matching.mixture_divergence(
            dict(zip(matching.MIXTURE, x)),
            {name: +value for name, value in OTHER.items()}, +SAMPLES),
        tuple(_mixture(M).values()), _mixture_divergence),
}


@pytest.mark.parametrize("name", CASES)
def test_a_matching_loss_equals_a_float64_reference(name):
  ours, arrays, reference = CASES[name]

  found = jax.jit(ours)(*(np.float32(x) for x in arrays))

  np.testing.assert_allclose(found, reference(*arrays), rtol=1e-5, atol=1e-5)
  assert found.dtype == jnp.float32 and np.ptp(found) > 0.05


@pytest.mark.parametrize("name", CASES)
def test_its_gradient_equals_finite_differences(name):
  ours, arrays, reference = CASES[name]

  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(
        lambda *x: (ours(*x) * TILT).sum(), tuple(range(len(arrays)))))(
            *map(jnp.asarray, arrays))

  generator = np.random.default_rng(2)
  for which, grad in enumerate(grads):
    for _ in range(3):  # Along random directions, in which all entries have a part.
      direction = generator.normal(size=arrays[which].shape)
      ends = [(TILT * reference(
          *arrays[:which], arrays[which] + sign * 1e-5 * direction,
          *arrays[which + 1:])).sum() for sign in (1, -1)]
      number = (ends[0] - ends[1]) / 2e-5
      assert (np.asarray(grad) * direction).sum() == pytest.approx(
          number, rel=1e-5, abs=1e-7)
      assert abs(number) > 1e-4


def test_what_equals_its_teacher_costs_nothing():
  one = {name: np.float32(value) for name, value in OTHER.items()}
  chances = np.float32(_softmax(_normal(B, T, V)))
  for found in (
      matching.divergence(chances, np.log(chances), 1.0),
      matching.sorted_distance(-np.sort(-chances), np.log(chances), 1.0),
      matching.squared_distance(np.float32(OWN), np.float32(OWN)),
      matching.angular_distance(np.float32(OWN), np.float32(2 * OWN)),
      matching.relation_divergence(np.float32(OWN_HEADS), np.float32(OWN_HEADS)),
      matching.mixture_divergence(one, one, np.float32(SAMPLES))):
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_no_gradient_is_nan_where_hidden_states_are_zero():
  grad = jax.grad(lambda x: matching.angular_distance(x, jnp.zeros((1, 1, 3))).sum())

  assert not np.asarray(grad(jnp.zeros((1, 1, 3)))).any()


# Of one position, whose KL is an integral over the plane.
def test_samples_of_the_teacher_estimate_the_kl_of_mixtures_without_bias():
  own, theirs = ({name: np.float32(value) for name, value in _mixture(count).items()}
                 for count in (M, M + 1))
  side = np.linspace(-12, 12, 601)
  plane = np.stack(np.meshgrid(side, side), -1)
  f, g = (_density(one, 0, 0, plane) for one in (theirs, own))
  area = (side[1] - side[0]) ** 2

  points = matching.mixture_samples(jax.random.key(0), theirs, 20_000)
  found = matching.mixture_divergence(own, theirs, points)

  with np.errstate(divide="ignore", invalid="ignore"):
    wanted = np.where(f > 0, f * (np.log(f) - np.log(g)), 0).sum() * area
  assert f.sum() * area == pytest.approx(1, abs=1e-3) and wanted > 0.3
  assert float(found[0, 0]) == pytest.approx(wanted, rel=0.05)
  assert points.shape == (20_000, B, T, 2)
  mean = (f[..., None] * plane).sum((0, 1)) * area
  np.testing.assert_allclose(points[:, 0, 0].mean(0), mean, atol=0.05)


@pytest.mark.parametrize("call, message", [
    (lambda: matching.divergence(CHANCES, CHANCES, 0.0), "temperature is 0.0"),
    (lambda: matching.sorted_distance(SORTED, SORTED, -1.0), "temperature is -1.0"),
    (lambda: matching.divergence(CHANCES, SORTED, 1.0), "7 and 5"),
    (lambda: matching.squared_distance(STATES, THEIRS), "3 and 6"),
    (lambda: matching.angular_distance(STATES, THEIRS), "3 and 6"),
    (lambda: matching.projected(THEIRS, KERNEL), "3 and 6"),
    (lambda: matching.relations(OWN_HEADS, 5), "5 relation heads do not divide 4"),
    (lambda: matching.attention_divergence({}, THEIR_PARTS), "the same names"),
], ids=range(8))
def test_arrays_that_do_not_fit_are_refused(call, message):
  with pytest.raises(errors.UserError, match=message):
    call()
