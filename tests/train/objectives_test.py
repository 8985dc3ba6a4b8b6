"""Tests for the token loss and its gradient, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen.train import objectives

TARGETS = np.array([[0, 6, 3], [2, 2, 5]], np.int32)
# Different weights per token, so that each contributes another gradient.
TILT = np.array([[0.5, 0.0, 2.0], [-1.0, 1.0, 3.0]], np.float32)


def reference(logits):
  """Returns the loss, and the gradient of its sum weighted with TILT, in float64."""
  wide = np.float64(logits)
  logs = wide - wide.max(-1, keepdims=True)
  logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
  hot = np.eye(wide.shape[-1])[TARGETS]
  return -(logs * hot).sum(-1), (np.exp(logs) - hot) * TILT[..., None]


def ours(logits):
  """Returns the loss, and the gradient of its sum weighted with TILT, by JAX."""
  def total(logits):
    nll = objectives.cross_entropy(logits, TARGETS)
    return (nll * TILT).sum(), nll
  with jax.numpy_dtype_promotion("strict"):
    grads, nll = jax.jit(jax.grad(total, has_aux=True))(logits)
  return nll, grads


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_loss_and_gradient_match_a_float64_reference(size):
  logits = size * np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)

  nll, grads = ours(logits)

  want_nll, want_grads = reference(logits)
  np.testing.assert_allclose(nll, want_nll, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(grads, want_grads, rtol=1e-5, atol=1e-6)
  assert nll.dtype == jnp.float32


def test_a_constant_offset_of_the_logits_loses_no_precision():
  logits = np.random.default_rng(0).integers(-8, 8, (2, 3, 7)).astype(np.float32)

  # Small integers plus 2 ** 17 are exact in float32, so any error is of the loss.
  near, far = ours(logits), ours(logits + np.float32(2 ** 17))

  np.testing.assert_allclose(far[0], near[0], rtol=1e-6)
  np.testing.assert_allclose(far[1], near[1], rtol=1e-6, atol=1e-7)


def test_bfloat16_logits_give_a_float32_loss():
  logits = jnp.asarray(
      np.random.default_rng(0).normal(size=(2, 3, 7)), jnp.bfloat16)

  nll, grads = ours(logits)

  want_nll, want_grads = reference(np.float32(logits))
  assert (nll.dtype, grads.dtype) == (jnp.float32, jnp.bfloat16)
  np.testing.assert_allclose(nll, want_nll, rtol=1e-5)
  np.testing.assert_allclose(np.float32(grads), want_grads, rtol=0.02, atol=0.01)
