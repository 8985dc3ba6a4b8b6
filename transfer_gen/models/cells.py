"""Recurrent cells, and the loop over time that all of them share.

A cell has two parts: the product of the state with the recurrent kernel, which is the
same for all cells, and the cell's own arithmetic on each unit. That arithmetic takes
one array for each gate, and works for any axes. Axes: B batch, T position, U hidden
width, G gates.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]  # dtype[B, U] each; the first is the output, h.
_Gates = tuple[jax.Array, ...]
_Squash = Callable[[jax.Array], jax.Array]


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
class Kind:
  """The properties of a kind of cell.

  Attributes:
    gates: G, the number of gates.
    states: Number of arrays in the carry.
    recurrent_bias: Whether the product with the state always has its own bias.
    apart: Whether the last gate reads its product with the state for itself; the other
      gates read the sum of their products with the input and with the state.
    whole: Whether the product needs the state alone, so that all gates are multiplied
      at once.
    move: Function of (carry, gates, apart) that returns the next carry. For each gate
      it gets the sum, or for the one that is apart the product with the input, and
      `apart` is its product with the state. If `whole` is False, it gets the products
      with the input, and `apart` is a function from a state and a slice of gates to
      their product.
  """
  gates: int
  states: int
  recurrent_bias: bool
  apart: bool
  whole: bool
  move: Callable[[Carry, _Gates, Any], Carry]

  def advance(self, carry: Carry, a: jax.Array, r: Any) -> Carry:
    """Returns the carry after one step.

    Args:
      carry: The carry before it; the units and rows may come in any order.
      a: dtype[G, ...], the products with the input.
      r: dtype[G, ...], those with the state; a function, if `whole` is False.
    """
    if not self.whole:
      return self.move(carry, tuple(a), r)
    alone = self.gates - self.apart
    sums = (*(a[:alone] + r[:alone]), *a[alone:])
    return self.move(carry, sums, r[-1] if self.apart else None)


def _rnn(squash, carry, gates, apart):
  del squash, carry, apart  # The sum is all that it sees.
  return (jnp.tanh(gates[0]),)


# z keeps the old state, as in Cho et al. (2014, equation 7), PyTorch and Keras. The sum
# (1 - z) n + z h is written with one product: n + z (h - n). The reset gate stands
# between the candidate's product with the state and its product with the input.
def _gru(squash, carry, gates, apart):
  [h], (reset, update, new) = carry, gates
  new = jnp.tanh(new + squash(reset) * apart)
  return (new + squash(update) * (h - new),)


# The candidate's product needs the reset gate's result, so the state is multiplied
# twice: first for the two gates, then for the candidate.
def _gru_before(squash, carry, gates, share):
  [h] = carry
  first = share(h, slice(0, 2))
  reset, update = squash(gates[0] + first[0]), squash(gates[1] + first[1])
  new = jnp.tanh(gates[2] + share(reset * h, slice(2, 3))[0])
  return (new + update * (h - new),)


# The gates come in the order of PyTorch and Keras, so no map has to reorder them.
def _lstm(squash, carry, gates, apart):
  del apart
  (_, c), (i, f, g, o) = carry, gates
  c = squash(f) * c + squash(i) * jnp.tanh(g)
  return squash(o) * jnp.tanh(c), c


def _hard(slope: float) -> _Squash:
  """A hard sigmoid with this slope at 0."""
  return lambda x: jnp.clip(x * slope + 0.5, 0, 1)


# Functions of a gate to [0, 1]. Keras up to 2 cuts a hard sigmoid at 2.5, Keras 3 at 3.
GATES: dict[str, _Squash] = {
    "sigmoid": jax.nn.sigmoid, "hard_sigmoid": _hard(0.2),
    "hard_sigmoid_3": _hard(1 / 6)}


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
  kinds: dict[str, tuple[Any, int, int]] = {
      "rnn": (_rnn, 1, 1), "gru": (_gru, 3, 1), "lstm": (_lstm, 4, 2)}
  move, gates, states = kinds[cell]
  after = cell == "gru" and reset_after
  whole = cell != "gru" or reset_after
  return Kind(
      gates=gates, states=states, recurrent_bias=after, apart=after, whole=whole,
      move=functools.partial(move if whole else _gru_before, GATES[gate]))


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
  if not kind.whole:
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
  if not kind.whole:
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
  # JAX sums the gradients of the kernel over the loop. Such a sum of T terms is
  # float32, whatever the steps compute in.
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), (kernel, bias))

  def share(h, gates):
    kernel, bias = jax.tree.map(lambda x: x.astype(a.dtype), wide)
    whole, *low = kernel if isinstance(kernel, LowRank) else (kernel,)
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
    r = share(carry[0], slice(None)) if kind.whole else share
    moved = kind.advance(carry, a.swapaxes(0, 1), r)
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


# All arrays of a step are copied out of those of all steps one step before: XLA's CPU
# backend does not vectorize a loop that computes with slices, and the exponentials of
# gates then take three times as long. The sums that gates read stand where the products
# with the input stood, and later their gradients where the sums stood, so that one
# array of this size is enough. It must be read after it is written, or it is copied.
def _forward(kind, carry, a, kernel, bias, remains, valid):
  flat, size = _flat(kernel), len(a)

  def step(state, index):
    carry, a, (now, remain, moves) = state
    r = (carry[0] @ flat).reshape(now.shape)
    if bias is not None:
      r += bias[None]
    sums, apart = _added(kind, now, r)
    a = lax.dynamic_update_index_in_dim(a, sums, index, 0)
    following = _at((a, remains, valid), jnp.minimum(index + 1, size - 1))
    moved = _chosen(moves, kind.move(carry, _gates(sums), apart), carry)
    return (_cleared(moved, remain), a, following), (moved[0], carry, apart)

  (end, sums, _), (h, before, apart) = lax.scan(
      step, (carry, a, _at((a, remains, valid), 0)), jnp.arange(size))
  return (h, end), (before, sums, apart, kernel, bias, remains, valid)


# The gates are computed again from their sums. The kernel multiplied the state from
# before each step, so its gradient pairs that one with d_r.
def _backward(kind, saved, d_out):
  before, sums, apart, kernel, bias, remains, valid = saved
  d_h, d_end = d_out
  turned, size = _flat(kernel).T, len(sums)  # [G * U, U]
  others = (before, apart, d_h, remains, valid)

  def step(state, index):
    d_carry, sums, (now, (before, apart, d_h, remain, moves)) = state
    d_carry = _cleared(d_carry, remain)
    d_carry = (d_carry[0] + d_h, *d_carry[1:])
    _, pull = jax.vjp(kind.move, before, _gates(now), apart)
    # A step that changed no state has no gradient of its gates.
    pulled, d_gates, d_apart = pull(d_carry)
    d_gates, d_apart = _chosen(
        moves, (d_gates, d_apart), jax.tree.map(jnp.zeros_like, (d_gates, d_apart)))
    d_r = jnp.concatenate(
        d_gates if d_apart is None else (*d_gates[:-1], d_apart), axis=-1)
    d_sums = d_r if d_apart is None else jnp.concatenate(d_gates, axis=-1)
    sums = lax.dynamic_update_index_in_dim(sums, d_sums.reshape(now.shape), index, 0)
    at = jnp.maximum(index - 1, 0)
    return (_chosen(moves, (pulled[0] + d_r @ turned, *pulled[1:]), d_carry), sums,
            (_at(sums, at), _at(others, at))), d_apart

  (d_carry, d_a, _), d_apart = lax.scan(
      step, (d_end, sums, _at((sums, others), size - 1)), jnp.arange(size),
      reverse=True)
  d_r = d_a if d_apart is None else d_a.at[:, :, -1].set(d_apart)
  h = before[0]
  d_kernel = _pull_kernel(kernel, h, d_r.reshape(*h.shape[:2], -1))
  d_bias = None if bias is None else d_r.sum((0, 1))
  return d_carry, d_a, d_kernel, d_bias, None, None


def _added(kind: Kind, a: jax.Array, r: jax.Array) -> tuple[jax.Array, Any]:
  """Returns what gates read, dtype[B, G, U], and what the last one reads apart."""
  if not kind.apart:
    return a + r, None
  last = jnp.arange(kind.gates) == kind.gates - 1
  return a + jnp.where(last[:, None], 0, r), r[:, -1]


def _gates(sums: jax.Array) -> _Gates:
  """Returns the gates dtype[B, U] of dtype[B, G, U]."""
  flat = sums.reshape(len(sums), -1)
  return tuple(jnp.split(flat, sums.shape[1], axis=1))


def _at(arrays: Any, index: jax.Array | int) -> Any:
  """Returns what arrays that begin with T have at one step."""
  return jax.tree.map(
      lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), arrays)


def _chosen(moves: jax.Array | None, moved: Any, stood: Any) -> Any:
  """Returns arrays dtype[B, U] of the first where bool[B], of the second elsewhere."""
  return moved if moves is None else jax.tree.map(
      lambda one, other: jnp.where(moves[:, None], one, other), moved, stood)


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


# Steps and rows stay two axes: a mesh divides the rows, and to merge the axes XLA would
# gather the rows of all devices on each.
#
# A's gradient h' (d_r B') is multiplied from the right, B's from the left, so that both
# products in between have only R columns. W's is a product of its own, which XLA drops
# if nobody asks for it.
def _pull_kernel(kernel: Kernel, h: jax.Array, d_r: jax.Array) -> Any:
  """Returns a kernel's gradients from h dtype[T, B, U] and d_r dtype[T, B, G * U]."""
  if not isinstance(kernel, LowRank):
    return jnp.einsum("tbu,tbv->uv", h, d_r).reshape(kernel.shape)
  d_a = jnp.einsum("tbu,tbr->ur", h, d_r @ _flat(kernel.b).T)
  d_b = jnp.einsum("tbr,tbv->rv", h @ kernel.a, d_r).reshape(kernel.b.shape)
  return LowRank(_pull_kernel(kernel.whole, h, d_r), d_a, d_b)


_unroll.defvjp(_forward, _backward)
