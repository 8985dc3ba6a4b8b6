"""A loop over time that takes the gradients of its kernels out of the loop.

Axes: B rows, T position, D inputs and F outputs of a kernel.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

# From the name of a kernel and dtype[D, B] to their product, dtype[F, B].
Multiply = Callable[[str, jax.Array], jax.Array]
Step = Callable[[Multiply, Any, Any, Any], tuple[Any, Any]]


# By itself JAX would add each step's share of a kernel's gradient to a sum that the
# loop carries: T small products, and T passes over an array of the kernel's size. Here
# the loop collects the gradients of the products, and one product of all steps follows.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(
    step: Step, kernels: dict[str, jax.Array], shared: Any, carry: Any, xs: Any
) -> tuple[Any, Any]:
  """As `lax.scan`, for a step that multiplies with kernels.

  Args:
    step: Function of (multiply, shared, carry, x) that returns the next carry and what
      is stacked. It calls `multiply` at most once for each kernel, and reads no traced
      array but those that it is given.
    kernels: dtype[F, D] each.
    shared: Other arrays that every step reads.
    carry: The first carry.
    xs: Arrays that begin with T.

  Returns:
    The last carry, and what the steps returned, stacked.
  """
  def body(carry, x):
    return step(lambda name, x: kernels[name] @ x, shared, carry, x)
  return lax.scan(body, carry, xs)


# A zero is added to each product, so that the gradient of the zero is that of the
# product.
def _forward(step, kernels, shared, carry, xs):
  steps = jax.tree.leaves(xs)[0].shape[0]

  dtypes = jax.tree.map(lambda x: x.dtype, shared)

  def run(zeros, shared, carry, xs):
    # JAX sums the gradient of what all steps read over the loop. Such a sum of T terms
    # is float32, whatever the steps compute in.
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        shared)

    def body(carry, inputs):
      x, zero = inputs
      read = {}
      shared = jax.tree.map(lambda x, dtype: x.astype(dtype), wide, dtypes)

      def multiply(name, x):
        read[name] = x
        return kernels[name] @ x + zero[name]

      carry, y = step(multiply, shared, carry, x)
      return carry, (y, read)

    carry, (ys, read) = lax.scan(body, carry, (xs, zeros))
    return (carry, ys), read

  sizes = jax.eval_shape(
      lambda: _products(step, kernels, shared, carry, jax.tree.map(lambda x: x[0], xs)))
  zeros = {name: jnp.zeros((steps, *product.shape), product.dtype)
           for name, product in sizes.items()}
  out, pull, read = jax.vjp(run, zeros, shared, carry, xs, has_aux=True)
  return out, (pull, read, kernels)


def _backward(step, saved, d_out):
  del step
  pull, read, kernels = saved
  d_products, d_shared, d_carry, d_xs = pull(d_out)
  flat = lambda x: x.swapaxes(1, 2).reshape(-1, x.shape[1])  # [T * B, F or D]
  d_kernels = {
      name: (flat(d_products[name]).T @ flat(read[name])).astype(kernel.dtype)
      for name, kernel in kernels.items()}
  return d_kernels, d_shared, d_carry, d_xs


def _products(step, kernels, shared, carry, x):
  """Returns the products of one step by the name of their kernel."""
  found = {}

  def multiply(name, x):
    found[name] = kernels[name] @ x
    return found[name]

  step(multiply, shared, carry, x)
  return found


scan.defvjp(_forward, _backward)
