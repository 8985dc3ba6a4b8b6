"""One pure training step, the same under jit, a mesh and pmap."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from transfer_gen.train import optim as optim_lib

Batch = Mapping[str, jax.Array]
# (params, batch, key) -> nll f32[B, T], or several such terms by name, of which `loss`
# is what is made small; the key draws dropout.
NllFn = Callable[[dict[str, jax.Array], Batch, jax.Array], Any]


@struct.dataclass
class TrainState:
  """All arrays that a checkpoint must hold to resume.

  Attributes:
    step: i32[], updates done.
    params: Flat params, by name.
    opt_state: Optimiser state of each group that learns now.
  """
  step: jax.Array
  params: dict[str, jax.Array]
  opt_state: optim_lib.State


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    nll_fn: NllFn,
    optimizer: optim_lib.Optimizer,
    key: jax.Array,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]:
  """Takes one step on the leaves that learn: those that `opt_state` has slots for.

  Frozen leaves, and rows of a table, are never differentiated, so no clip, norm or
  decay can see them. The loss that is told has no penalty of an anchor in it.
  The caller owns jit, shardings and donation. The step folds its number into the
  run's key, so a resumed run draws what the first one drew.

  Args:
    state: The state before the step.
    batch: inputs and targets i32[B, T]; weights f32[B, T], 0 on what does not
      count.
    nll_fn: Negative log-likelihood of each target, in nats, or terms by name.
    optimizer: Updates what learns.
    key: The run's dropout key.
    accumulate: Micro-batches that B is divided into, one at a time in memory.
    axis_name: Under pmap: the axis of devices that share the step.

  Returns:
    The state after the step, and metrics as (total, count), to be added up over
    steps before they are divided: each term per token, and `grad_norm`. A loss that
    is one term is in nats per token.
  """
  total_over = lambda x: jax.lax.psum(x, axis_name) if axis_name else x
  learning, frozen = optimizer.split(state.params, state.opt_state)
  count = total_over(batch["weights"].sum())
  step_key = jax.random.fold_in(key, state.step)
  if axis_name:
    step_key = jax.random.fold_in(step_key, jax.lax.axis_index(axis_name))

  def loss_fn(learning, batch, key):
    seen = optimizer.mixed(learning, state.opt_state, key)
    terms = nll_fn(optimizer.join(seen, frozen), batch, key)
    terms = terms if isinstance(terms, Mapping) else {"loss": terms}
    totals = {name: (term * batch["weights"]).sum() for name, term in terms.items()}
    return totals["loss"] / jnp.maximum(count, 1.0), totals

  grads, totals = total_over(
      _grads(loss_fn, learning, batch, step_key, accumulate))
  updated, opt_state, norm = optimizer.update(grads, state.opt_state, learning)
  return TrainState(
      step=state.step + 1, params=optimizer.join(updated, frozen), opt_state=opt_state
  ), {**{name: (total, count) for name, total in totals.items()},
      "grad_norm": (norm, jnp.ones(()))}


def _grads(loss_fn, learning, batch, key, accumulate):
  """Gradient and totals of the whole batch, `accumulate` parts one after another."""
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if accumulate == 1:
    return grad_fn(learning, batch, key)
  split = lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:])

  def add(sums, part):
    index, micro_batch = part
    new = grad_fn(learning, micro_batch, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, sums, new), None

  parts = jnp.arange(accumulate), jax.tree.map(split, dict(batch))
  one = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], parts[1]))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                       jax.eval_shape(grad_fn, learning, one, key))
  return jax.lax.scan(add, zeros, parts)[0]
