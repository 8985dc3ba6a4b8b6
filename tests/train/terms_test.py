"""Tests for the terms of a loss against independent float64 references."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from transfer_gen.train import terms

B, T, V, D, K, L = 2, 5, 7, 2, 3, 4
_generator = np.random.default_rng(0)
_normal = lambda *shape: _generator.normal(size=shape)
LOGITS = 2 * _normal(B, T, V)
# A token occurs again in the first row; the last two targets do not count.
TARGETS = np.array([[3, 1, 3, 3, 1], [0, 6, 6, 2, 0]], np.int32)
WEIGHTS = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], np.float32)
POSITIONS = np.array([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]], np.int32)
VALUES = _normal(B, T, D)
MIXTURE = (_normal(B, T, K), _normal(B, T, K, D), 0.5 * _normal(B, T, K, D))
SLANTS = _normal(B, T, K)
STATES = np.array([[0, 2, 1, 1, 0], [2, 2, 0, 1, 1]], np.int32)
# Different for each target, so that no gradient hides behind another.
TILT = 1 + np.arange(B * T).reshape(B, T) / 7
LATENT = (_normal(B, L), _normal(B, L))
LEAST = np.mean(0.5 * (LATENT[0] ** 2 + np.exp(LATENT[1]) - 1 - LATENT[1]))


def _log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _smoothed(logits):
  want = np.full((B, T, V), 0.1 / V)
  for b, t in np.ndindex(B, T):
    want[b, t, TARGETS[b, t]] += 0.9
  return -(want * _log_softmax(logits)).sum(-1)


def _unlikely(logits, positions=None):
  chances, found = np.exp(_log_softmax(logits)), np.zeros((B, T))
  for b, t in np.ndindex(B, T):
    begin = 0 if positions is None else t - positions[b, t]
    negatives = {int(TARGETS[b, s]) for s in range(begin, t) if WEIGHTS[b, s]}
    for token in negatives - {int(TARGETS[b, t])}:
      found[b, t] -= math.log(1 - chances[b, t, token])
  return found


def _mixed(logits, means, log_scales, values, slants=None):
  found = np.zeros((B, T))
  for b, t in np.ndindex(B, T):
    weights = np.exp(_log_softmax(logits[b, t]))
    density = 0.0
    for k in range(K):
      scales = np.exp(log_scales[b, t, k])
      slant = 0.0 if slants is None else np.tanh(slants[b, t, k])
      between = slant * scales[0] * scales[1]
      density += weights[k] * stats.multivariate_normal.pdf(
          values[b, t], means[b, t, k],
          [[scales[0] ** 2, between], [between, scales[1] ** 2]])
    found[b, t] = -np.log(density)
  return found


def _divergence(mean, log_var, free=0.0):
  each = 0.5 * (mean ** 2 + np.exp(log_var) - 1 - log_var)
  return np.where(each > free, each, free).sum(-1)


def _lifted(logits):
  chance = 1 / (1 + np.exp(-logits[..., 0]))
  return -np.log(np.where(np.minimum(STATES, 1) == 1, chance, 1 - chance))


# Each: our function of the arrays that are differentiated, those, and the reference.
# `+VALUES` is a new array, of which JAX has not kept a float32 copy.
CASES = {
    "label_smoothed": (
        lambda x: terms.label_smoothed(x, TARGETS, 0.1), (LOGITS,), _smoothed),
    "z_loss": (terms.z_loss, (LOGITS,), lambda x: np.log(np.exp(x).sum(-1)) ** 2),
    "unlikelihood": (
        lambda x: terms.unlikelihood(x, TARGETS, WEIGHTS), (LOGITS,), _unlikely),
    "unlikelihood_packed": (
        lambda x: terms.unlikelihood(x, TARGETS, WEIGHTS, POSITIONS), (LOGITS,),
        functools.partial(_unlikely, positions=POSITIONS)),
    "gaussian": (
        lambda m, v: terms.gaussian(m, v, +VALUES),
        (_normal(B, T, D), _normal(B, T, D)),
        lambda m, v: -stats.norm.logpdf(VALUES, m, np.exp(v / 2)).sum(-1)),
    "mixture": (lambda *x: terms.mixture(*x, +VALUES), MIXTURE,
                lambda *x: _mixed(*x, VALUES)),
    "bivariate": (
        lambda *x: terms.bivariate(*x, +VALUES), (*MIXTURE, SLANTS),
        lambda logits, means, scales, slants: _mixed(
            logits, means, scales, VALUES, slants)),
    "pen": (lambda x: terms.pen(x, STATES), (_normal(B, T, 3),),
            lambda x: -np.take_along_axis(
                _log_softmax(x), STATES[..., None], -1)[..., 0]),
    "pen_lifted": (lambda x: terms.pen(x, np.minimum(STATES, 1)), (_normal(B, T, 1),),
                   _lifted),
    "squared_error": (
        lambda x: terms.squared_error(x, +VALUES), (_normal(B, T, D),),
        lambda x: np.linalg.norm(x - VALUES, axis=-1) ** 2),
    "kl": (lambda m, v: (terms.kl(m, v, WEIGHTS) * WEIGHTS).sum(-1), LATENT,
           _divergence),
    "kl_free_bits": (
        lambda m, v: (terms.kl(m, v, WEIGHTS, 0.5) * WEIGHTS).sum(-1), LATENT,
        functools.partial(_divergence, free=0.5)),
    # Above the mean of one row and below that of the other.
    "kl_least": (
        lambda m, v: (terms.kl(m, v, WEIGHTS, least=LEAST) * WEIGHTS).sum(-1), LATENT,
        lambda m, v: np.maximum(_divergence(m, v), LEAST * L)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_term_matches_a_float64_reference(name):
  ours, arrays, reference = CASES[name]

  found = jax.jit(ours)(*(np.float32(x) for x in arrays))

  np.testing.assert_allclose(found, reference(*arrays), rtol=1e-5, atol=1e-5)
  assert found.dtype == jnp.float32 and np.ptp(found) > 0.1


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_a_term_matches_finite_differences(name):
  ours, arrays, reference = CASES[name]
  tilt = lambda found: (found * (TILT if found.ndim == 2 else TILT[:, 0])).sum()

  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(lambda *x: tilt(ours(*x)), tuple(range(len(arrays)))))(
        *map(jnp.asarray, arrays))

  generator = np.random.default_rng(2)
  for which, grad in enumerate(grads):
    for _ in range(4):  # Along random directions, in which all entries have a part.
      direction = generator.normal(size=arrays[which].shape)
      ends = [tilt(reference(*arrays[:which], arrays[which] + sign * 1e-5 * direction,
                             *arrays[which + 1:])) for sign in (1, -1)]
      number = (ends[0] - ends[1]) / 2e-5
      assert (np.asarray(grad) * direction).sum() == pytest.approx(number, rel=1e-5)
      assert abs(number) > 1e-2


def test_the_smoothed_loss_is_that_of_torch():
  torch = pytest.importorskip("torch")

  ours = jax.jit(CASES["label_smoothed"][0])(np.float32(LOGITS))

  theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")(
      torch.tensor(LOGITS).reshape(-1, V), torch.tensor(TARGETS).long().reshape(-1))
  np.testing.assert_allclose(np.ravel(ours), theirs.numpy(), rtol=1e-5)


def test_the_kl_is_the_mean_over_samples_of_the_posterior():
  mean, log_var = np.array([0.7]), np.array([-0.8])
  draws = np.random.default_rng(1).normal(mean, np.exp(log_var / 2), 10**6)

  found = terms.kl(
      jnp.asarray(mean[None], jnp.float32), jnp.asarray(log_var[None], jnp.float32),
      jnp.ones((1, 1)))

  logs = stats.norm.logpdf(draws, mean, np.exp(log_var / 2)) - stats.norm.logpdf(draws)
  # Five standard errors of the mean.
  assert abs(float(found[0, 0]) - logs.mean()) < 5 * logs.std() / 1e3


def test_strongly_correlated_points_keep_their_digits():
  """1 - tanh(8)^2 is 4.5e-7, of which float32 has no digit if it is subtracted."""
  slants = np.full((B, T, K), 8.0)
  near = (MIXTURE[0], *np.zeros((2, B, T, K, D)))
  values = np.repeat(VALUES[..., :1], 2, -1)  # On the line that the points lie along.

  found = jax.jit(terms.bivariate)(
      *(np.float32(x) for x in near), np.float32(slants), np.float32(values))

  np.testing.assert_allclose(
      found, _mixed(*near, values, slants), rtol=1e-4, atol=1e-4)


def test_a_certain_repetition_has_a_finite_loss_and_gradient():
  logits = np.zeros((1, 2, 3), np.float32)
  logits[0, 1, 0] = 100.0  # Sure to write the first token again.
  given = np.array([[0, 1]]), np.ones((1, 2), np.float32)

  value, grad = jax.jit(jax.value_and_grad(
      lambda x: terms.unlikelihood(x, *given).sum()))(jnp.asarray(logits))

  assert float(value) == pytest.approx(-math.log(1e-5), rel=1e-5)
  assert np.isfinite(grad).all()


def test_rows_without_targets_have_no_kl():
  weights = np.zeros((B, T), np.float32)

  found = terms.kl(*(np.float32(x) for x in LATENT), weights) * weights

  assert not found.any()
