"""Recurrent cells, and the loop over time that all of them share.

A cell has two parts: the product of the state with the recurrent kernel, which is the
same for all cells, and the cell's own arithmetic on each unit, whose gradient is
written out here. That arithmetic has the gates along the first axis and works for any
order of the other axes. Axes: B batch, T position, U hidden width, G gates.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]  # dtype[B, U] each; the first is the output, h.
# What `advance` keeps for `pull` differs from cell to cell, so it has no narrower type.
_Advance = Callable[[Carry, jax.Array, Any], tuple[Carry, Any]]
_Gates = tuple[jax.Array, ...]
_Pull = Callable[[Carry, Any], tuple[Carry, _Gates, _Gates | None]]


class LowRank(NamedTuple):
  """A recurrent kernel W + A B, of which each part may learn.

  No gradient of W's size is formed unless W learns.

  Attributes:
    whole: W, dtype[U, G, U].
    a: dtype[U, R].
    b: dtype[R, G, U].
  """
  whole: jax.Array
  a: jax.Array
  b: jax.Array


Kernel = jax.Array | LowRank


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
  """The function of a gate.

  Attributes:
    squash: Elementwise function to [0, 1].
    slope: Derivative of `squash`, as a function of its output.
  """
  squash: Callable[[jax.Array], jax.Array]
  slope: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """The properties of a kind of cell.

  Attributes:
    gates: G, the number of gates.
    states: Number of arrays in the carry.
    recurrent_bias: Whether the product with the state always has its own bias.
    advance: Function of (carry, a, r) that returns the carry after one step, and what
      `pull` needs; a and r dtype[G, ...] are the products of the input and the state.
    pull: Function of (gradient of the new carry, what `advance` kept) that returns the
      gradients of the carry, of r and of a, the latter two by gate. The gradient of a
      is None if it equals that of r. `pull` is None for a cell whose product needs more
      than its state: then `advance` gets a function from a state and a slice of gates
      to their product in place of r, and JAX differentiates it.
  """
  gates: int
  states: int
  recurrent_bias: bool
  advance: _Advance
  pull: _Pull | None


def _rnn(gate, carry, a, r):
  del gate, carry  # The product with it is all that it sees.
  h = jnp.tanh(a + r)[0]
  return (h,), h


# The derivative of tanh is 1 - tanh^2, so the output is all that has to be kept. The
# carry's own gradient is zero here and in an LSTM's h: a state acts only through r, and
# `_backward` adds that share with the kernel.
def _rnn_pull(gate, d_carry, h):
  del gate
  d = d_carry[0] * (1 - h * h)
  return (jnp.zeros_like(d),), (d,), None


# z keeps the old state, as in Cho et al. (2014, equation 7), PyTorch and Keras. The sum
# (1 - z) n + z h is written with one product: n + z (h - n).
def _gru(gate, carry, a, r):
  [h] = carry
  reset, update = gate.squash(a[:2] + r[:2])
  new = jnp.tanh(a[2] + reset * r[2])
  return (new + update * (h - new),), (reset, update, new, h, r[2])


# The reset gate stands between r and the candidate, so the candidate's gradients for r
# and for a differ, and both are returned. In the other cells a and r are only added.
def _gru_pull(gate, d_carry, kept):
  [d_h], (reset, update, new, h, r) = d_carry, kept
  d_new = d_h * (1 - update) * (1 - new * new)
  d_update = d_h * (h - new) * gate.slope(update)
  d_reset = d_new * r * gate.slope(reset)
  return (
      (d_h * update,), (d_reset, d_update, d_new * reset), (d_reset, d_update, d_new))


# The candidate's product needs the reset gate's result, so the state is multiplied
# twice: first for the two gates, then for the candidate. No product of the whole state
# can be made before, and nothing is kept, since JAX differentiates this form.
def _gru_before(gate, carry, a, share):
  [h] = carry
  reset, update = gate.squash(a[:2] + share(h, slice(0, 2)))
  new = jnp.tanh(a[2] + share(reset * h, slice(2, 3))[0])
  return (new + update * (h - new),), ()


# The gates come in the order of PyTorch and Keras, so no map has to reorder them. The
# tanh of the new state is kept, because the backward step needs it twice.
def _lstm(gate, carry, a, r):
  c = carry[1]
  i, f, g, o = a + r
  i, f, g, o = gate.squash(i), gate.squash(f), jnp.tanh(g), gate.squash(o)
  new = f * c + i * g
  out = jnp.tanh(new)
  return (o * out, new), (i, f, g, o, c, out)


# The cell state gets gradients on two ways: from the next step, and from this step's
# output, which reads it through tanh.
def _lstm_pull(gate, d_carry, kept):
  (d_h, d_c), (i, f, g, o, c, out) = d_carry, kept
  d_c += d_h * o * (1 - out * out)
  d_gates = (d_c * g * gate.slope(i), d_c * c * gate.slope(f), d_c * i * (1 - g * g),
             d_h * out * gate.slope(o))
  return (jnp.zeros_like(d_h), d_c * f), d_gates, None


# The slope follows from the output: where the clip acts, it is exactly 0 or 1, and its
# derivative is 0.
def _hard(slope: float) -> Gate:
  """A hard sigmoid with this slope at 0."""
  return Gate(
      squash=lambda x: jnp.clip(x * slope + 0.5, 0, 1),
      slope=lambda y: jnp.where((y > 0) & (y < 1), slope, 0).astype(y.dtype))


# Keras up to 2 cuts a hard sigmoid at 2.5, Keras 3 at 3.
GATES = {
    "sigmoid": Gate(squash=jax.nn.sigmoid, slope=lambda y: y * (1 - y)),
    "hard_sigmoid": _hard(0.2),
    "hard_sigmoid_3": _hard(1 / 6),
}


# Cached, because two `functools.partial` of one function are unequal, and so would be
# two `Kind`s of one config.
@functools.cache
def kind(cell: str, gate: str = "sigmoid", reset_after: bool = True) -> Kind:
  """Returns the kind of cell that a config names, always the same object.

  Args:
    cell: One of `KINDS`.
    gate: One of `GATES`.
    reset_after: GRU: whether the reset gate acts after the product with the state
      (cuDNN's form) or on the state before it (Cho et al., 2014).
  """
  kinds: dict[str, tuple[Any, Any, int, int]] = {
      "rnn": (_rnn, _rnn_pull, 1, 1), "gru": (_gru, _gru_pull, 3, 1),
      "lstm": (_lstm, _lstm_pull, 4, 2)}
  advance, pull, gates, states = kinds[cell]
  if cell == "gru" and not reset_after:
    advance, pull = _gru_before, None
  return Kind(
      gates=gates, states=states, recurrent_bias=cell == "gru" and reset_after,
      advance=functools.partial(advance, GATES[gate]),
      pull=pull and functools.partial(pull, GATES[gate]))


# The arrays of a carry. Cells with one state have the first of them.
STATES = ("h", "c")
# The numbers of gates and of states depend on the cell alone. Who needs only these
# finds them here, without a gate function.
KINDS = {cell: kind(cell) for cell in ("rnn", "gru", "lstm")}


def unroll(
    kind: Kind, carry: Carry, a: jax.Array, kernel: Kernel,
    bias: jax.Array | None, begins: jax.Array | None = None,
) -> jax.Array:
  """Reads whole sequences.

  Args:
    kind: The cell.
    carry: The state before the first step.
    a: dtype[T, B, G, U], products of the inputs of all steps.
    kernel: dtype[U, G, U], or one with a low-rank part.
    bias: dtype[G, U], added to the product with the state, or None.
    begins: bool[T, B], True at steps whose state before is zeros, whatever the last
      step left. None: at none.

  Returns:
    h dtype[T, B, U] after each step.
  """
  if kind.pull is None:
    return read(kind, carry, a, kernel, bias, jnp.ones(a.shape[:2], bool), begins)[1]
  if begins is None:
    return _unroll(kind, carry, a, kernel, bias, None, None)[0]
  # A state is cleared as it is written, in the one pass over it that each step makes.
  # So the first state is cleared here, and each step knows whether the next one begins.
  carry = tuple(jnp.where(begins[0][:, None], 0, state) for state in carry)
  remains = 1 - jnp.pad(begins[1:], ((0, 1), (0, 0))).astype(a.dtype)
  return _unroll(kind, carry, a, kernel, bias, remains, None)[0]


def summarize(
    kind: Kind, carry: Carry, a: jax.Array, kernel: Kernel, bias: jax.Array | None,
    valid: jax.Array) -> tuple[Carry, jax.Array]:
  """As `read`, of whole texts and in the fast way of `unroll`."""
  if kind.pull is None:
    return read(kind, carry, a, kernel, bias, valid)
  h, end = _unroll(kind, carry, a, kernel, bias, None, valid)
  return end, h


# Rows that have ended compute along, and `valid` discards what they computed: shapes
# cannot depend on data. Low-rank parts act in each step here, where `_flat` adds them
# up once. JAX derives the gradient of this loop.
def read(
    kind: Kind, carry: Carry, a: jax.Array, kernel: Kernel,
    bias: jax.Array | None, valid: jax.Array, begins: jax.Array | None = None,
) -> tuple[Carry, jax.Array]:
  """As `unroll`, but the carry does not change at steps where `valid` is False.

  Returns:
    The carry at the end, and h dtype[T, B, U].
  """
  whole, *low = kernel if isinstance(kernel, LowRank) else (kernel,)

  def share(h, gates):
    part = whole[:, gates]
    r = h @ part.reshape(part.shape[0], -1)
    if low:
      r += (h @ low[0]) @ low[1][:, gates].reshape(low[1].shape[0], -1)
    r = r.reshape(-1, *part.shape[1:])
    if bias is not None:
      r += bias[None, gates]
    return r.swapaxes(0, 1)

  def step(carry, inputs):
    a, valid, begins = inputs
    if begins is not None:
      carry = tuple(jnp.where(begins[:, None], 0, state) for state in carry)
    r = share if kind.pull is None else share(carry[0], slice(None))
    moved, _ = kind.advance(carry, a.swapaxes(0, 1), r)
    carry = tuple(
        jnp.where(valid[:, None], new, old) for new, old in zip(moved, carry))
    return carry, carry[0]
  return lax.scan(step, carry, (a, valid, begins))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(kind, carry, a, kernel, bias, remains, valid):
  """`unroll` with a backward loop that carries only the gradient of the state.

  `remains` is dtype[T, B], 0 after steps whose state is cleared and else 1, or None.
  `valid` is bool[T, B], False at steps that change no state, or None. Beside the
  states h of all steps it returns the last carry.

  The loop collects the gradients of the gates. The gradient of the recurrent kernel is
  then one product over all steps, which is faster than a sum over the loop.
  """
  return _forward(kind, carry, a, kernel, bias, remains, valid)[0]


# Rows come before units inside the loops, as outside. With units first, products of an
# XLA that packs kernels in each step were faster, but what all steps read and write had
# to be turned around before and after a loop, which now costs more than it saves.
def _forward(kind, carry, a, kernel, bias, remains, valid):
  flat = _flat(kernel)

  def step(carry, inputs):
    a, remain, moves = inputs
    r = (carry[0] @ flat).reshape(a.shape)
    if bias is not None:
      r += bias[None]
    moved, kept = kind.advance(carry, a.swapaxes(0, 1), r.swapaxes(0, 1))
    moved = _chosen(moves, moved, carry)
    return _cleared(moved, remain), (moved[0], kept)

  end, (h, kept) = lax.scan(step, carry, (a, remains, valid))
  return (h, end), (carry, h, kept, kernel, bias, remains, valid)


# The kernel multiplied the state from before each step, so its gradient pairs d_r with
# h moved back by one step, with the first carry in front. Where a and r have the same
# gradient, the loop collects it once.
def _backward(kind, saved, d_out):
  carry, h, kept, kernel, bias, remains, valid = saved
  d_out, d_end = d_out
  turned = _flat(kernel).T  # [G * U, U]

  def step(d_carry, inputs):
    d_h, kept, remain, moves = inputs
    d_carry = _cleared(d_carry, remain)
    d_carry = (d_carry[0] + d_h, *d_carry[1:])
    pulled, d_r, d_a = kind.pull(d_carry, kept)
    # [B, G * U]. A step that changed no state has no gradient of its gates.
    d_r, d_a = (_gathered(d, moves) for d in (d_r, d_a))
    return _chosen(moves, (pulled[0] + d_r @ turned, *pulled[1:]), d_carry), (d_r, d_a)

  # [T, B, G * U] each; d_a may be None.
  d_carry, (d_r, d_a) = lax.scan(
      step, d_end, (d_out, kept, remains, valid), reverse=True)
  assert d_r is not None
  if remains is not None:
    h *= remains[..., None]
  before = jnp.concatenate((carry[0][None], h[:-1]))
  d_kernel = _pull_kernel(
      kernel, before.reshape(-1, before.shape[-1]), d_r.reshape(-1, d_r.shape[-1]))
  d_bias = None if bias is None else d_r.sum((0, 1)).reshape(bias.shape)
  d_a = (d_r if d_a is None else d_a).reshape(*d_r.shape[:2], -1, before.shape[-1])
  return d_carry, d_a, d_kernel, d_bias, None, None


def _chosen(moves: jax.Array | None, moved: Carry, stood: Carry) -> Carry:
  """Returns states dtype[B, U] of the first where bool[B], of the second elsewhere."""
  return moved if moves is None else tuple(
      jnp.where(moves[:, None], one, other) for one, other in zip(moved, stood))


def _gathered(d: _Gates | None, moves: jax.Array | None) -> jax.Array | None:
  """Returns the gradients of the gates dtype[B, G * U], 0 where bool[B] is False."""
  if d is None:
    return None
  whole = jnp.concatenate(d, axis=-1)
  return whole if moves is None else jnp.where(moves[:, None], whole, 0)


def _cleared(carry: Carry, remain: jax.Array | None) -> Carry:
  """Returns the states dtype[B, U], or their gradients, times `remain` dtype[B]."""
  return carry if remain is None else tuple(
      state * remain[:, None] for state in carry)


def whole(kernel: Kernel) -> jax.Array:
  """Returns a kernel dtype[U, G, U] with its low-rank part added."""
  if isinstance(kernel, LowRank):
    return _flat(kernel).reshape(kernel.whole.shape)
  return kernel


# A low-rank part is added once for all T steps, so the loops are the same with and
# without one. The sum is formed again for the backward loop instead of being kept.
def _flat(kernel):
  """Returns the whole kernel, dtype[U, G * U], with its low-rank part added."""
  if not isinstance(kernel, LowRank):
    return kernel.reshape(kernel.shape[0], -1)
  return _flat(kernel.whole) + kernel.a @ _flat(kernel.b)


# A's gradient h' (d_r B') is multiplied from the right, B's from the left, so that both
# products in between have only R columns. W's is a product of its own, which XLA drops
# if nobody asks for it.
def _pull_kernel(kernel: Kernel, h: jax.Array, d_r: jax.Array) -> Any:
  """Returns a kernel's gradients from its inputs dtype[N, U] and d_r [N, G * U]."""
  if not isinstance(kernel, LowRank):
    return (h.T @ d_r).reshape(kernel.shape)
  d_a = h.T @ (d_r @ _flat(kernel.b).T)
  d_b = ((h @ kernel.a).T @ d_r).reshape(kernel.b.shape)
  return LowRank(_pull_kernel(kernel.whole, h, d_r), d_a, d_b)


_unroll.defvjp(_forward, _backward)
