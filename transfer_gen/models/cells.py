"""Recurrent cells, and the loop over time that all of them share.

A cell is split in two: the product of the state with the recurrent kernel, which is
the same for all, and `advance`, its own arithmetic on each unit alone. Axes: B batch,
T position, U hidden width, G gates. Sequences are time-major.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]  # dtype[B, U] each; the first is the output, h.
# (carry, from the input [B, G, U], from the state [B, G, U]) -> carry.
Advance = Callable[[Carry, jax.Array, jax.Array], Carry]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """What tells one cell from another.

  Attributes:
    gates: G.
    states: How many arrays the carry holds.
    recurrent_bias: Whether the product with the state has a bias of its own.
    advance: The carry after one step.
  """
  gates: int
  states: int
  recurrent_bias: bool
  advance: Advance


def _rnn(carry: Carry, x: jax.Array, r: jax.Array) -> Carry:
  del carry  # The product with it is all that it sees.
  return (jnp.tanh(x + r)[:, 0],)


def _gru(carry: Carry, x: jax.Array, r: jax.Array) -> Carry:
  reset, update = (jax.nn.sigmoid(x[:, i] + r[:, i]) for i in range(2))
  candidate = jnp.tanh(x[:, 2] + reset * r[:, 2])
  return (candidate + update * (carry[0] - candidate),)


def _lstm(carry: Carry, x: jax.Array, r: jax.Array) -> Carry:
  i, f, g, o = ((x + r)[:, gate] for gate in range(4))
  c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
  return jax.nn.sigmoid(o) * jnp.tanh(c), c


KINDS = {
    "rnn": Kind(gates=1, states=1, recurrent_bias=False, advance=_rnn),
    "gru": Kind(gates=3, states=1, recurrent_bias=True, advance=_gru),
    "lstm": Kind(gates=4, states=2, recurrent_bias=False, advance=_lstm),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(
    advance: Advance, carry: Carry, x: jax.Array, kernel: jax.Array,
    bias: jax.Array | None,
) -> jax.Array:
  """Reads whole sequences.

  The backward loop passes on the gradient of the state alone; it gathers those of
  the gates, and the recurrent kernel's is one product of all steps at its end.

  Args:
    advance: A cell's arithmetic.
    carry: The state before the first step.
    x: dtype[T, B, G, U], the inputs' share of all steps.
    kernel: dtype[U, G, U].
    bias: dtype[G, U], added to the product with the state, or None.

  Returns:
    h dtype[T, B, U] after each step.
  """
  return _forward(advance, carry, x, kernel, bias)[0]


def read(
    advance: Advance, carry: Carry, x: jax.Array, kernel: jax.Array,
    bias: jax.Array | None, valid: jax.Array,
) -> tuple[Carry, jax.Array]:
  """`unroll` from bool[T, B] valid steps; the carry stands still at the others.

  Returns:
    The carry at the end, and h dtype[T, B, U].
  """
  def step(carry, inputs):
    x, valid = inputs
    moved = advance(carry, x, _product(carry[0], kernel, bias))
    carry = tuple(
        jnp.where(valid[:, None], new, old) for new, old in zip(moved, carry))
    return carry, carry[0]
  return lax.scan(step, carry, (x, valid))


def _forward(advance, carry, x, kernel, bias):
  def step(carry, x):
    r = _product(carry[0], kernel, bias)
    moved = advance(carry, x, r)
    return moved, (moved[0], carry, r)
  _, (h, carries, r) = lax.scan(step, carry, x)
  return h, (carries, x, r, kernel, bias)


def _backward(advance, saved, d_h):
  carries, x, r, kernel, bias = saved
  across = kernel.reshape(kernel.shape[0], -1).T  # [G * U, U], turned only once.

  def step(d_carry, inputs):
    d_h, carry, x, r = inputs
    _, pull = jax.vjp(advance, carry, x, r)
    d_carry, d_x, d_r = pull((d_carry[0] + d_h, *d_carry[1:]))
    d_state = d_carry[0] + d_r.reshape(d_r.shape[0], -1) @ across
    return (d_state, *d_carry[1:]), (d_x, d_r)

  zeros = tuple(jnp.zeros_like(c[0]) for c in carries)
  d_carry, (d_x, d_r) = lax.scan(step, zeros, (d_h, carries, x, r), reverse=True)
  states = carries[0].reshape(-1, kernel.shape[0])
  d_kernel = (states.T @ d_r.reshape(states.shape[0], -1)).reshape(kernel.shape)
  return d_carry, d_x, d_kernel, None if bias is None else d_r.sum((0, 1))


unroll.defvjp(_forward, _backward)


def _product(h, kernel, bias):
  r = (h @ kernel.reshape(h.shape[-1], -1)).reshape(-1, *kernel.shape[1:])
  return r if bias is None else r + bias[None]
