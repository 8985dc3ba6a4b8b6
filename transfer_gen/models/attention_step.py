"""One step of a recurrent decoder that attends to what an encoder read.

Axes: B rows, K texts into which a row branches, R = B K, T position, S place in what
the encoder read, U hidden width, M width of the memory, A width of keys, G gates.
Inside the loop units come before rows, as in `cells`; the memory has rows first,
because each row is multiplied with its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transfer_gen.models import cells
from transfer_gen.models import deferred

_FLOOR = -1e30  # Below any score; finite, so that nothing becomes NaN.


class Form(NamedTuple):
  """What the step is made of; equal forms are one program.

  Attributes:
    cell: Kind of all cells.
    before: Whether the query is the state before the step, so that the first layer
      reads the context.
    projects: Whether the query is a product with the state, and not the state itself.
    combines: Whether state and context become one hidden state.
    feeds: Whether the first layer reads that of the step before.
    heard: Layers whose states are returned for each step.
  """
  cell: cells.Kind
  before: bool
  projects: bool
  combines: bool
  feeds: bool
  heard: tuple[int, ...] = ()


# Weights of places that are padding are exactly 0, also in a row that has no others:
# its context is then 0, whatever the padding is.
def attend(
    vectors: dict[str, jax.Array], memory: dict[str, jax.Array], query: jax.Array,
    seen: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Reads the memory.

  Args:
    vectors: `score` f32[A], for scores v tanh(key + query); without it they are the
      products of keys and queries. `coverage` f32[A], what `seen` adds to the keys.
    memory: `value` dtype[B, S, M]; `valid` bool[B, S]; and `key` dtype[B, S, A], by
      default the values.
    query: dtype[B, K, A]. K may be any number of queries.
    seen: f32[B, K, S], the sums of earlier weights.

  Returns:
    The weights f32[B, K, S], and the context dtype[B, K, M].
  """
  value, valid = memory["value"], memory["valid"][:, None]
  key, dtype = memory.get("key", value), value.dtype
  if "score" in vectors:
    hidden = key[:, None] + query[:, :, None]  # [B, K, S, A]
    if seen is not None:
      hidden += _outer(seen.astype(dtype), vectors["coverage"].astype(dtype))
    scores = _inner(jnp.tanh(hidden), vectors["score"].astype(dtype))
  else:
    scores = jnp.einsum("bka,bsa->bks", query, key)
  scores = jnp.where(valid, scores.astype(jnp.float32), _FLOOR)
  weights = jnp.where(valid, jax.nn.softmax(scores), 0)
  return weights, jnp.einsum("bks,bsm->bkm", weights.astype(dtype), value)


def step(
    form: Form, multiply: deferred.Multiply, shared: dict[str, Any],
    carry: dict[str, Any], x: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads one token; see `deferred.scan`.

  Args:
    form: What the step is made of.
    multiply: By names of kernels: "0/context", of layer 0 for the part `context`, and
      so on; "0/recurrent"; "query"; "combine/", of the state, and "combine/context".
    shared: `inputs`, a layer, dtype[G, U, 1] that is added to its gates, the first
      one's excepted; `biases`, a layer, that of the product with the state, or None;
      `query` dtype[A, 1] and `combine` dtype[U, 1], biases or None; `vectors` and
      `memory`, see `attend`.
    carry: `states`, a layer, its carry dtype[U, R] each; `feed` dtype[U, R] and `seen`
      f32[B, K, S], if the form has them.
    x: `inputs` dtype[G, U, R] of the first layer; `kept`, factors of dropout
      dtype[D, R] by the name of the kernel that reads what they act on; `valid`
      bool[R] or None, where it is False the carry does not change.

  Returns:
    The next carry, and dtype[D, R] for what follows: the state or what it was combined
    to, "", the context, and under `states` those of the layers that are heard.
  """
  states, seen, valid = carry["states"], carry.get("seen"), x["valid"]
  kept = lambda name, part: part * x["kept"][name] if name in x["kept"] else part
  parts: dict[str, jax.Array] = {}
  if form.before:
    parts["context"], seen = _read(
        form, multiply, shared, states[-1][0], seen)
  context = parts.get("context")
  if form.feeds:
    parts["feed"] = carry["feed"]
  moved = []
  for i, state in enumerate(states):
    a = shared["inputs"][i - 1] if i else x["inputs"]
    for part, read in parts.items():
      name = f"{i}/{part}"
      a = a + multiply(name, kept(name, read)).reshape(*a.shape[:2], -1)
    moved.append(_advance(form.cell, multiply, shared["biases"][i], i, state, a))
    parts = {"": moved[-1][0]}
  top = moved[-1][0]
  if context is None:
    context, seen = _read(form, multiply, shared, top, seen)
  if form.combines:
    top = multiply("combine/", top) + multiply("combine/context", context)
    top = jnp.tanh(top if shared["combine"] is None else top + shared["combine"])
  after: dict[str, Any] = {"states": tuple(moved)}
  if form.feeds:
    after["feed"] = top
  if valid is not None:
    after = jax.tree.map(
        lambda new, old: jnp.where(valid[None], new, old), after,
        {name: carry[name] for name in after})
  if seen is not None:
    stands = None if valid is None else valid.reshape(*seen.shape[:2], 1)
    after["seen"] = seen if stands is None else jnp.where(stands, seen, carry["seen"])
  heard = tuple(moved[layer][0] for layer in form.heard)
  return after, {"": top, "context": context, "states": heard}


def _advance(cell, multiply, bias, layer, state, a):
  """Returns the carry of a layer after one step; a dtype[G, U, R]."""
  def product(name, h, gates):
    r = multiply(name, h).reshape(-1, *a.shape[1:])
    return r if bias is None else r + bias[gates]

  # The form whose reset gate acts before the product multiplies its gates one after
  # the other; their kernels are two then.
  r = (lambda h, gates: product(f"{layer}/recurrent_{gates.start}", h, gates)
       ) if not cell.whole else product(f"{layer}/recurrent", state[0], slice(None))
  return cell.advance(state, a, r)


def _read(form, multiply, shared, h, seen):
  """Returns the context dtype[M, R] of a state dtype[U, R], and the new `seen`."""
  memory, query = shared["memory"], h
  if form.projects:
    query = multiply("query", h)
    query = query if shared["query"] is None else query + shared["query"]
  rows = memory["value"].shape[0]
  weights, context = attend(
      shared["vectors"], memory, query.T.reshape(rows, -1, query.shape[0]), seen)
  context = context.reshape(-1, context.shape[-1]).T
  return context, None if seen is None else seen + weights


def _inner(x, vector):
  """Returns the products of dtype[..., A] with dtype[A]."""
  return (x.reshape(-1, x.shape[-1]) @ vector).reshape(x.shape[:-1])


def _outer(x, vector):
  """Returns dtype[..., A] of dtype[...] and dtype[A]."""
  return x[..., None] * vector.reshape((1,) * x.ndim + vector.shape)
