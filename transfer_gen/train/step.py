"""One pure training step, which is the same under jit, on a mesh and under pmap."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from transfer_gen.train import ema as ema_lib
from transfer_gen.train import loss_scale
from transfer_gen.train import optim as optim_lib

Batch = Mapping[str, jax.Array]
# (params, batch, key) -> nll f32[B, T], or several such terms by name, of which `loss`
# is minimized and the others are only reported. The key draws dropout.
NllFn = Callable[[dict[str, jax.Array], Batch, jax.Array], Any]
# step i32[] -> the weight of each term that is minimized, a number or f32[], by name.
Weigh = Callable[[jax.Array], Mapping[str, Any]]
# Names among terms and weights: the anchors' penalties, and the plain cross-entropy.
ANCHOR, CE = "anchor", "ce"


@struct.dataclass
class TrainState:
  """All arrays that a checkpoint must hold so that training can resume.

  Attributes:
    step: i32[], number of updates done.
    params: Flat params, by name.
    opt_state: Optimizer state of each group that learns now, by group name.
    others: What some runs keep beside these, by name: `loss_scale.NAME`, `ema.NAME`.
  """
  step: jax.Array
  params: dict[str, jax.Array]
  opt_state: optim_lib.State
  others: dict[str, Any] = struct.field(default_factory=dict)


def others(
    dtype: str, ema: float = 0.0, params: Mapping[str, jax.Array] | None = None
) -> dict[str, Any]:
  """Returns the first `TrainState.others` of a run.

  Args:
    dtype: What its model computes in.
    ema: As for `train_step`.
    params: For an average, the params that ever learn.
  """
  return {
      **({loss_scale.NAME: loss_scale.fresh()} if loss_scale.needed(dtype) else {}),
      **({ema_lib.NAME: ema_lib.fresh(params or {})} if ema else {})}


def averaged(state: TrainState) -> dict[str, jax.Array]:
  """Returns the params, with the averages of those that have one."""
  return {**state.params, **state.others.get(ema_lib.NAME, {})}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    nll_fn: NllFn,
    optimizer: optim_lib.Optimizer,
    key: jax.Array,
    lr: jax.typing.ArrayLike | None = None,
    weigh: Weigh | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]:
  """Takes one optimizer step on the leaves that learn.

  Those are the leaves of the groups that `opt_state` holds. Frozen leaves, and frozen
  rows of a table, are never differentiated, so clipping, norms and weight decay cannot
  see them. The reported loss is what is minimized, with the weighted penalties of
  anchors in it.

  The caller owns jit, shardings and donation. The step number is folded into the run's
  key, so a resumed run draws what an uninterrupted one would have drawn.

  With a loss scale among `state.others`, a step whose gradients are not finite counts,
  and changes nothing else but the scale.

  Args:
    state: The state before the step.
    batch: `inputs` and `targets` i32[B, T]; `weights` f32[B, T], 0 for targets that
      do not count.
    nll_fn: Negative log-likelihood of each target, in nats, or several terms by name.
    optimizer: The optimizer of the leaves that learn.
    key: The run's dropout key.
    lr: The run's learning rate, f32[]; if None, it is the optimizer's own.
    weigh: Weights of the terms, whose weighted sum is minimized; that of `anchor` is 1
      unless it is among them. If None, the term `loss` and the anchors' penalties are.
    accumulate: Number of micro-batches; they are computed one after another to save
      memory. It must divide B.
    ema: Decay of the average of the params among `state.others`, if there is one.
    axis_name: Under pmap, the name of the device axis; None otherwise.

  Returns:
    The state after the step, and metrics as (total, count): each term over the targets
    that count, `loss`, the weights that change (`NAME_weight`), `grad_norm`, and with a
    loss scale `loss_scale` and `skipped`, 1 for a step that changed nothing. With
    anchors their penalty stands there as `anchor`, as much for each target, and what
    else is minimized as `ce` if `weigh` is None. Add both up over steps before
    dividing.
  """
  total_over = lambda x: jax.lax.psum(x, axis_name) if axis_name else x
  learning, frozen = optimizer.split(state.params, state.opt_state)
  # The count is over all devices and micro-batches, so that each token weighs the same
  # however the batch is divided: a mean of means would not.
  count = total_over(batch["weights"].sum())
  weights = weigh(state.step) if weigh else {}
  scaling = state.others.get(loss_scale.NAME)
  scale: Any = scaling["scale"] if scaling else 1.0
  step_key = jax.random.fold_in(key, state.step)
  if axis_name:  # Otherwise all devices would draw the same dropout masks.
    step_key = jax.random.fold_in(step_key, jax.lax.axis_index(axis_name))

  def loss_fn(learning, batch, key):
    # Inside the differentiated function, so that gradients flow through the mixture.
    seen = optimizer.mix(learning, state.opt_state, key)
    terms = nll_fn(optimizer.join(seen, frozen), batch, key)
    terms = terms if isinstance(terms, Mapping) else {"loss": terms}
    totals = {name: (term * batch["weights"]).sum() for name, term in terms.items()}
    if weights:
      totals["loss"] = sum(weight * totals[name] for name, weight in weights.items()
                           if name != ANCHOR)
    # A batch of padding alone has count 0; its loss must be 0 and not NaN.
    return scale * totals["loss"] / jnp.maximum(count, 1.0), totals

  # A sum and no mean, because each device has already divided by the total count.
  grads, totals = total_over(
      _grads(loss_fn, learning, batch, step_key, accumulate))
  grads = jax.tree.map(lambda g: g / scale, grads)
  updated, opt_state, norm = optimizer.update(
      grads, state.opt_state, learning, weights.get(ANCHOR, 1.0), lr)
  finite, kept = jnp.ones((), bool), dict(state.others)
  if scaling:
    finite = loss_scale.are_finite(grads)
    updated, opt_state = loss_scale.chosen(
        finite, (updated, opt_state), (learning, dict(state.opt_state)))
    kept[loss_scale.NAME] = loss_scale.after(scaling, finite)
  penalties = {name: penalty * count for name, penalty in optimizer.penalties(
      learning, state.opt_state).items()}
  if penalties:
    # Added here, where the count is that of the whole batch: in `loss_fn` each device
    # and micro-batch would add the penalty once more.
    totals = {**({} if weights else {CE: totals["loss"]}), **totals, **penalties}
    totals["loss"] += weights.get(ANCHOR, 1.0) * totals[ANCHOR]
  once: dict[str, Any] = {
      **{f"{name}_weight": weight for name, weight in weights.items()
         if isinstance(weight, jax.Array)},
      **({loss_scale.NAME: scale, "skipped": 1.0 - finite} if scaling else {})}
  params = optimizer.join(updated, frozen)
  if ema_lib.NAME in kept:
    kept[ema_lib.NAME] = ema_lib.after(
        kept[ema_lib.NAME], params, ema, state.step, finite)
  return TrainState(
      step=state.step + 1, params=params, opt_state=opt_state, others=kept
  ), {**{name: (total, count) for name, total in totals.items()},
      **{name: (value, jnp.ones(())) for name, value in once.items()},
      # One norm that is not finite would be the mean of a whole line.
      "grad_norm": (jnp.where(finite, norm, 0.0), finite.astype(jnp.float32))
                   if scaling else (norm, jnp.ones(()))}


def _grads(loss_fn, learning, batch, key, accumulate):
  """Returns gradient and totals of the whole batch, summed over its micro-batches."""
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if accumulate == 1:
    return grad_fn(learning, batch, key)
  split = lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:])

  def add(sums, part):
    index, micro_batch = part
    # Each micro-batch draws its own masks, as rows of one batch would.
    new = grad_fn(learning, micro_batch, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, sums, new), None

  parts = jnp.arange(accumulate), jax.tree.map(split, dict(batch))
  # The scan needs the shapes and dtypes of its carry before the first micro-batch.
  one = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], parts[1]))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                       jax.eval_shape(grad_fn, learning, one, key))
  return jax.lax.scan(add, zeros, parts)[0]
