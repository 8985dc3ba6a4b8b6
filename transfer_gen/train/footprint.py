"""What a training step takes of each device: memory, and bytes that it sends.

All numbers come from shapes, for any number of devices; no array is made.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.extend import core

from transfer_gen import sharding
from transfer_gen import tree
from transfer_gen.train import optim as optim_lib
from transfer_gen.train import step as step_lib

Specs = Mapping[str, tree.Spec]
_AGAIN = ("checkpoint", "remat", "remat2")  # Names of one operation, by version.
_ROWS = 8191  # A prime, so that it divides the sizes of arrays that have rows alone.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
  """What one step takes of each device, in bytes.

  Attributes:
    params: Params as they are stored between steps, the teacher's included.
    gathered: Params that are put together for the step, beside their stored parts.
    gradients: Gradients of the leaves that learn, divided as the params are.
    optimizer: Optimizer state of the leaves that learn.
    averages: A moving average of these leaves, if one is kept.
    activations: An estimate of what waits for the backward pass, of one micro-batch.
    sent: Bytes that a device sends in a step, by what it sends over which mesh axis.
  """
  params: int
  gathered: int
  gradients: int
  optimizer: int
  averages: int
  activations: int
  sent: Mapping[str, int]

  @property
  def total(self) -> int:
    """Bytes of memory that a device needs."""
    return self.state + self.temporary

  @property
  def state(self) -> int:
    """Bytes that stay on a device between steps."""
    return self.params + self.optimizer + self.averages

  @property
  def temporary(self) -> int:
    """Bytes that a device needs during a step beside them."""
    return self.gathered + self.gradients + self.activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """All of a step that does not depend on the mesh.

  Attributes:
    specs: Specs of the params.
    learning: Specs of the leaves that learn, with the rows that do of a table.
    state: Shapes of the optimizer state.
    uses: How often the loss reads each param.
    saved: Shapes and bytes per row of the arrays that wait for the backward pass.
    rows: B, over all devices.
    lengths: Number of tokens in a row, of the inputs and of the encoder's inputs.
    itemsize: Bytes of a number in activations.
    other: Specs of the params of a teacher.
    averaged: Whether an average of the params is kept.
  """
  specs: Specs
  learning: Specs
  state: Any
  uses: Mapping[str, int]
  saved: tuple[tuple[tuple[int, ...], float], ...]
  rows: int
  lengths: tuple[int, int]
  itemsize: int
  other: Specs = dataclasses.field(default_factory=dict)
  averaged: bool = False


def trace(
    specs: Specs, optimizer: optim_lib.Optimizer, nll_fn: step_lib.NllFn,
    batch: Mapping[str, Any], step: int, itemsize: int = 4,
    other: Specs | None = None, averaged: bool = False,
) -> Work:
  """Traces a step once, for the footprint on any mesh.

  Args:
    specs: Specs of the params.
    optimizer: Says what learns.
    nll_fn: The loss, as `step.train_step` takes it.
    batch: A batch; only its shapes count.
    step: Number of updates before the step, which decides what learns.
    itemsize: Bytes of a number in activations.
    other: Specs of the params of a teacher.
    averaged: Whether a moving average of what learns is kept.
  """
  params: Any = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
                 for name, spec in specs.items()}
  state = jax.eval_shape(lambda x: optimizer.extend({}, x, step), params)
  learning, _ = jax.eval_shape(optimizer.split, params, state)
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
  rows, length = batch["inputs"].shape[:2]
  encoder = batch.get("encoder_inputs", batch["inputs"])
  many = {name: jax.ShapeDtypeStruct((_ROWS, *x.shape[1:]), x.dtype)
          for name, x in batch.items()}
  uses, saved = _traced(nll_fn, params, frozenset(learning), many)
  return Work(
      specs=specs, state=state, uses=uses, saved=saved, rows=rows,
      learning={name: dataclasses.replace(specs[name], shape=x.shape)
                for name, x in learning.items()},
      lengths=(length, encoder.shape[1]), itemsize=itemsize, other=other or {},
      averaged=averaged)


def on_mesh(
    work: Work, sizes: tuple[int, int, int], rules: sharding.Rules = (),
    accumulate: int = 1,
) -> Footprint:
  """Returns the footprint of a step on a mesh.

  Args:
    work: What `trace` returned.
    sizes: Sizes of the axes data, fsdp and tensor.
    rules: Rules that come before the default ones, as for `sharding.divide`.
    accumulate: Number of micro-batches.
  """
  mesh = sharding.abstract_mesh(sizes)
  stored = sharding.of_params(work.specs, mesh, rules)
  whole = sharding.whole_in_step(stored)
  bytes_in = lambda specs, places: {
      name: _part(spec.shape, places[name]) * spec.dtype.itemsize
      for name, spec in specs.items()}
  kept, used = bytes_in(work.specs, stored), bytes_in(work.specs, whole)
  # The rows that learn of a table are an array of their own, and lie whole.
  grads = {name: used[name] if spec.shape == work.specs[name].shape else spec.nbytes
           for name, spec in work.learning.items()}
  teacher = bytes_in(work.other, sharding.of_params(work.other, mesh, rules))
  sent: collections.Counter[str] = collections.Counter()
  for kind, size in _sent(work, stored, grads, used, accumulate):
    sent[kind] += round(size)
  return Footprint(
      params=sum(kept.values()) + sum(teacher.values()),
      gathered=sum(used[name] for name in used if used[name] > kept[name]),
      gradients=sum(min(size, kept[name]) for name, size in grads.items()),
      optimizer=sum(
          _part(x.shape, place) * x.dtype.itemsize for x, place in zip(
              jax.tree.leaves(work.state), jax.tree.leaves(
                  sharding.of_state(work.state, stored, work.specs)))),
      averages=sum(kept[name] for name in grads) if work.averaged else 0,
      activations=_activations(work, stored, accumulate),
      sent=dict(sent))


# What is saved is found by shape: the arrays whose size the number of rows divides. The
# params are saved too, and are counted elsewhere.
def _traced(nll_fn, params, learning, batch):
  """Returns how often each param is read, and what waits for the backward pass."""
  def loss(mine, others, batch, key):
    terms = nll_fn(tree.merge(mine, others), batch, key)
    terms = terms if isinstance(terms, Mapping) else {"loss": terms}
    return (terms["loss"] * batch["weights"]).sum()

  given = (*tree.partition(params, learning), batch,
           jax.eval_shape(lambda: jax.random.key(0)))
  # The model is traced once; what is saved is found from the program.
  program = jax.make_jaxpr(loss)(*given)
  run = core.jaxpr_as_fun(program)
  count = len(learning)
  saved = []

  def both(mine, others):
    value, back = jax.vjp(lambda *mine: run(*mine, *others)[0], *mine)
    saved.extend((x.shape, x.size // _ROWS * x.dtype.itemsize)
                 for x in jax.tree.leaves(back) if x.size % _ROWS == 0)
    return value

  leaves = jax.tree.leaves(given)
  jax.eval_shape(both, leaves[:count], leaves[count:])
  saved.extend(_computed_again(program.jaxpr))
  read = collections.Counter(
      x for equation in program.jaxpr.eqns for x in {id(x) for x in equation.invars})
  # Arguments are flattened in the order of names, and params come first.
  names = [*sorted(given[0]), *sorted(given[1])]
  return dict(zip(names, (read[id(x)] for x in program.jaxpr.invars))), tuple(saved)


def _computed_again(jaxpr: Any) -> list[tuple[tuple[int, ...], float]]:
  """Returns what one layer that is computed again keeps meanwhile; that of the largest.

  The backward pass computes such layers one after another, see `models.remat`.
  """
  found: dict[Any, list[tuple[tuple[int, ...], float]]] = {}
  for equation in jaxpr.eqns:
    if equation.primitive.name not in _AGAIN:
      continue
    # Layers of one form are alike: each form is traced once.
    kind = (len(equation.params["jaxpr"].eqns),
            *(x.aval.str_short() for x in equation.invars))
    if kind not in found:
      inner = core.jaxpr_as_fun(core.ClosedJaxpr(equation.params["jaxpr"], ()))
      found[kind] = _kept(inner, [x.aval for x in equation.invars])
  return max(found.values(), default=[], key=lambda kept: sum(
      size for _, size in kept))


def _kept(run: Any, avals: Sequence[Any]) -> list[tuple[tuple[int, ...], float]]:
  """Returns shapes and bytes per row of what a function keeps to be differentiated."""
  kept = []

  def both(*given):
    floats = [x for x in given if jnp.issubdtype(x.dtype, jnp.inexact)]

    def of(*floats):
      rest = iter(floats)
      return run(*(next(rest) if jnp.issubdtype(x.dtype, jnp.inexact) else x
                   for x in given))
    value, back = jax.vjp(of, *floats)
    kept.extend((x.shape, x.size // _ROWS * x.dtype.itemsize)
                for x in jax.tree.leaves(back) if x.size % _ROWS == 0)
    return value
  jax.eval_shape(both, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals))
  return kept


def _activations(work: Work, stored, accumulate: int) -> int:
  """Returns the bytes that wait on each device for the backward pass.

  An array is divided over `tensor` if it has a dimension of the size of an axis that
  `tensor` divides, and no axis that it does not divide is of that size.
  """
  mesh = next(iter(stored.values())).mesh
  split, other = set(), set(work.lengths)
  for name, spec in work.specs.items():
    parts = (*stored[name].spec, *[None] * len(spec.shape))
    for size, part in zip(spec.shape, parts):
      (split if part == "tensor" else other).add(size)
    # Heads times their width, as the last product of an attention reads them.
    if "heads" in spec.axes and "tensor" in parts:
      split.add(math.prod(size for axis, size in zip(spec.axes, spec.shape)
                          if axis in ("heads", "kv")))
  split -= other
  rows = work.rows / (mesh.shape["data"] * mesh.shape["fsdp"] * accumulate)
  found = [size / (mesh.shape["tensor"] if split & set(shape) else 1)
           for shape, size in work.saved]
  return round(rows * sum(found))


def _sent(work: Work, stored, grads, used, accumulate: int
          ) -> Iterator[tuple[str, float]]:
  """Yields what a device sends in a step: kind and mesh axis, and bytes.

  A ring of n devices sends (n - 1) / n of an array from each device to gather its parts
  or to sum it into parts, and twice that to sum it everywhere.
  """
  sizes = next(iter(stored.values())).mesh.shape
  share = {axis: (n - 1) / n for axis, n in sizes.items()}
  rows = work.rows / (sizes["data"] * sizes["fsdp"])
  for name, spec in work.specs.items():
    times = work.uses[name]
    axes = {part for part in stored[name].spec if part}
    tokens = rows * work.lengths[name.startswith("encoder")]
    # Once for all micro-batches: XLA takes it out of their loop.
    for axis in sorted(axes - {"tensor"}):
      yield f"all-gather over {axis}", share[axis] * used[name]
    if name in grads:
      yield from _reduced(grads[name] * times * accumulate, axes, sizes)
    if "tensor" in axes:
      size = _summed(spec, stored[name].spec, times) * tokens * work.itemsize
      yield "all-reduce over tensor", 2 * share["tensor"] * size


# XLA sums what each product gives, so a table that is looked up and also makes the
# logits is summed twice.
def _reduced(size: float, axes, sizes) -> Iterator[tuple[str, float]]:
  """Yields what summing the gradient of a leaf over the rows of all devices sends."""
  for axis in ("fsdp", "data"):  # The order matters: `data` sums what `fsdp` left.
    n = sizes[axis]
    if axis not in axes:
      yield f"all-reduce over {axis}", 2 * (n - 1) / n * size
      continue
    yield f"reduce-scatter over {axis}", (n - 1) / n * size
    size /= n


def _summed(spec: tree.Spec, parts: Any, times: int) -> float:
  """Returns the features per token that are summed over `tensor` for one leaf.

  A product that contracts a divided dimension sums its outputs. If it divides a
  dimension of its outputs, the backward pass contracts that, and sums the gradients of
  the inputs.
  """
  # Looking rows up sums them, and the product that makes logits sums the gradients of
  # its inputs.
  if _is_table(spec):
    return float(times * spec.shape[1])
  # A kernel has the dimensions that it reads in front. A bias has none there.
  inputs = next(
      (i for i, reads in enumerate(spec.reads) if not reads), len(spec.reads))
  if inputs == 0:
    return 0.0
  here = parts[:inputs].count("tensor")
  return float(times * math.prod(spec.shape[inputs:] if here else spec.shape[:inputs]))


def _is_table(spec: tree.Spec) -> bool:
  return spec.axes[0] == "vocab" and len(spec.axes) == 2 and not any(spec.reads)


def _part(shape: tuple[int, ...], place: jax.sharding.Sharding) -> int:
  return math.prod(place.shard_shape(shape))
