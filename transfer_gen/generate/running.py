"""Writes a batch of texts to their end, on no more rows and slots than it takes.

Axes: B rows; N new tokens for which there is room; L tokens of a text, at least N. If
the batch is resized, B falls and N grows on the way.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, TypeVar

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen.generate import prefill
from transfer_gen.generate import settings
from transfer_gen.models import extended

# A dataclass whose arrays are scalars or begin with B, among them `step` i32[], the
# number of new tokens; `done` bool[B], whether a row has ended; and `cache`.
State = TypeVar("State", bound=Any)

# Each B and each N is a program to compile, so there are few of them.
_SHRINK = 4
_FEWEST_ROWS = 4
_GROW = 4
_FIRST_ROOM = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A way to write texts.

  Attributes:
    begin: Returns the state after the first token; see `sampling.begin`.
    advance: Returns the state after further tokens; see `sampling.advance`.
    texts: Names of the state's arrays i32[..., L], which end with the new tokens.
    read: Takes a state and N; returns what was written in each row.
  """
  begin: Callable[..., Any]
  advance: Callable[..., Any]
  texts: tuple[str, ...]
  read: Callable[[Any, int], list[Any]]


def to_end(
    method: Method, module: extended.Model, params: Any, switches: settings.Switches,
    rows: prefill.Rows, limits: settings.Limits, *, longest: int, resize: bool = False,
    watch: prefill.WatchFn | None = None, every: int = 8,
) -> list[Any]:
  """Writes all texts of a batch.

  Args:
    method: How they are written.
    module: The model.
    params: Nested params.
    switches: Which settings act.
    rows: See `prefill.pad_rows`.
    limits: See `settings.bind`.
    longest: Largest N, a power of two.
    resize: Whether rows that have ended are dropped when a quarter of them is left, and
      N begins small and grows when a text gets there. It takes a fraction of the
      time where lengths differ, and more programs to compile.
    watch: Called after each `every` new tokens with what was written in all rows.
    every: Number of new tokens between two calls of `watch`.

  Returns:
    What was written in each row.
  """
  size = min(_FIRST_ROOM, longest) if resize else longest
  state = method.begin(module, size, switches, params, rows, limits)
  written: list[Any] = [None] * state.done.shape[0]
  index = np.arange(len(written))  # Of the row in each place of the batch.
  smaller = _smaller(state.done) if resize else []
  while True:
    until = size if watch is None else min(size, (int(state.step) // every + 1) * every)
    state = method.advance(
        module, size, switches, params, state, rows, limits, np.int32(until),
        np.int32(max(smaller, default=0)))
    for i, one in zip(index, method.read(state, size)):
      written[i] = one
    done = np.array(state.done)
    if watch is not None:
      done |= np.array(watch(written))[index]
      state = dataclasses.replace(
          state, done=jax.device_put(done, state.done.sharding))
    if done.all():
      return written
    fitting = [one for one in smaller if one >= (~done).sum()]
    if fitting:
      # Rows that have ended fill up the smaller batch.
      chosen = np.argsort(done, kind="stable")[:min(fitting)]
      index, (state, rows) = index[chosen], _selected((state, rows), chosen)
      smaller = [one for one in smaller if one < len(index)]
    if size < longest and int(state.step) == size:
      more = min(_GROW * size, longest) - size
      size += more
      slots = rows["inputs"].shape[1] + switches.beams * size
      state = _lengthened(module, method.texts, slots, more, state)


def loop(
    write: Callable[[State], State], state: State, until: jax.Array, fewest: jax.Array
) -> State:
  """Writes tokens within a compiled program; rows that have ended compute along.

  Args:
    write: Returns the state with one more token of each row.
    state: The state.
    until: i32[], number of new tokens after which the state is returned.
    fewest: i32[], number of rows that have not ended at which it is returned.
  """
  # XLA's CPU backend drops axes of size 1 from products. If the loop's carry has such
  # axes, each step copies the cache and writes it a second time.
  shapes = jax.eval_shape(lambda: state.cache)

  def squeezed(state):
    return dataclasses.replace(state, cache=jax.tree.map(jnp.squeeze, state.cache))

  def whole(state):
    return dataclasses.replace(state, cache=jax.tree.map(
        lambda x, like: x.reshape(like.shape), state.cache, shapes))

  return whole(lax.while_loop(
      lambda state: (state.step < until) & ((~state.done).sum() > fewest),
      lambda state: squeezed(write(whole(state))), squeezed(state)))


def _smaller(done):
  """Returns smaller values of B, which the devices of a bool[B] can divide."""
  size, found = done.shape[0], []
  devices = size // done.sharding.shard_shape(done.shape)[0]
  while (size := size // _SHRINK) >= max(_FEWEST_ROWS, devices):
    found.append(size // devices * devices)
  return found


def _selected(arrays, chosen):
  """Returns the chosen rows of all arrays, divided over devices as before."""
  return jax.tree.map(
      lambda new, old: jax.device_put(new, old.sharding)
      if isinstance(old, jax.Array) else new, _select(arrays, chosen), arrays)


@jax.jit
def _select(arrays, chosen):
  return jax.tree.map(lambda x: x[chosen] if x.ndim else x, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _lengthened(module, texts, slots, more, state):
  """Returns the state with `more` places in texts, and a cache with some slots."""
  def longer(text):
    return jnp.pad(text, [(0, 0)] * (text.ndim - 1) + [(0, more)],
                   constant_values=module.config.vocab_size)

  return dataclasses.replace(
      state, cache=module.apply({}, state.cache, slots, method="lengthen"),
      **{name: longer(getattr(state, name)) for name in texts})
