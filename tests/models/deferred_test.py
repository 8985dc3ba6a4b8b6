"""Tests for the loop that takes the gradients of kernels out of the loop."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.comparing import distance
from transfer_gen import tree
from transfer_gen.models import deferred

STEPS, ROWS, WIDTH = 6, 3, 4


def step(multiply, shared, carry, x):
  """Multiplies twice, one product behind the other."""
  h = jnp.tanh(multiply("first", carry) + x["a"] + shared)
  h = jnp.where(x["valid"][None], multiply("second", h), carry)
  return h, {"h": h, "square": h * h}


def plain(step, kernels, shared, carry, xs):
  return lax.scan(lambda carry, x: step(
      lambda name, x: kernels[name] @ x, shared, carry, x), carry, xs)


def test_values_and_gradients_are_those_of_a_plain_loop():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  args = ({"first": draw(5, WIDTH), "second": draw(WIDTH, 5)}, draw(5, 1),
          draw(WIDTH, ROWS), {"a": draw(STEPS, 5, ROWS)})
  valid, weights = jnp.asarray(rng.random((STEPS, ROWS)) < 0.7), draw(2, STEPS, WIDTH,
                                                                     ROWS)

  def loss(scan, kernels, shared, carry, xs):
    last, ys = scan(step, kernels, shared, carry, {**xs, "valid": valid})
    return (ys["h"] * weights[0] + ys["square"] * weights[1]).sum() + last.sum()

  ours, theirs = (jax.jit(jax.value_and_grad(
      lambda *args, scan=scan: loss(scan, *args), argnums=(0, 1, 2, 3)))(*args)
      for scan in (deferred.scan, plain))

  assert distance(ours[0], theirs[0]) < 1e-6
  ours, theirs = tree.flatten(ours[1]), tree.flatten(theirs[1])
  assert len(ours) == 5 and ours.keys() == theirs.keys()
  for name, grad in ours.items():
    assert distance(grad, theirs[name]) < 1e-5, name


def test_the_backward_loop_carries_no_gradient_of_a_kernel():
  """A carry of a kernel's size would be read and written in each step."""
  kernels = {"first": jnp.ones((50, 40)), "second": jnp.ones((40, 50))}
  xs = {"a": jnp.ones((STEPS, 50, ROWS)), "valid": jnp.ones((STEPS, ROWS), bool)}

  def loops(scan):
    text = str(jax.make_jaxpr(jax.grad(lambda kernels: scan(
        step, kernels, jnp.ones((50, 1)), jnp.ones((40, ROWS)), xs)[0].sum()))(kernels))
    return text.count("dot_general"), "f32[50,40] = add_any" in text

  assert not loops(deferred.scan)[1]
  assert loops(plain)[1]
