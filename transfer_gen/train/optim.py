"""Optimisers over the leaves that learn, one state a group.

An optimiser state here is a dict from group name to that group's Optax state. It
holds the groups that learn now and no others: what is frozen has no slot, and a
group that starts late starts with its own count and fresh moments.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
from jax import numpy as jnp
import optax

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_NO_DECAY = (r"(.*/)?(bias|recurrent_bias|scale)",)
_Params = Mapping[str, jax.Array]
State = dict[str, optax.OptState]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """What updates what.

  Attributes:
    txs: Gradient transformation of each group that ever learns.
    members: Leaf names of each of these groups.
    starts: First step at which each of them learns.
    clip_norm: Largest global norm of the gradient of all that learns. 0: none.
  """
  txs: Mapping[str, optax.GradientTransformation]
  members: Mapping[str, tuple[str, ...]]
  starts: Mapping[str, int]
  clip_norm: float

  def learning(self, state: Mapping[str, optax.OptState]) -> frozenset[str]:
    """Names of the leaves that a state of this optimiser updates."""
    return frozenset(name for group in state for name in self.members[group])

  def extend(self, state: State, params: _Params, step: int) -> State:
    """Adds the groups that learn from `step` on to a state; {} is the empty one."""
    added = {
        group: self.txs[group].init({n: params[n] for n in self.members[group]})
        for group, start in self.starts.items()
        if start <= step and group not in state}
    return {**state, **added} if added else state

  def update(
      self, grads: _Params, state: State, params: _Params
  ) -> tuple[dict[str, jax.Array], State, jax.Array]:
    """One update of the learning leaves.

    Args:
      grads: Their gradients, and no others.
      state: Says which groups learn.
      params: Their values.

    Returns:
      Their new values, the new state, and the norm of `grads` before clipping.
    """
    norm = optax.tree.norm(grads)
    if self.clip_norm:
      factor = jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))
      grads = jax.tree.map(lambda g: g * factor, grads)
    new_params, new_state = {}, {}
    for group, group_state in state.items():
      mine = lambda flat: {n: flat[n] for n in self.members[group]}  # pylint: disable=cell-var-from-loop
      updates, new_state[group] = self.txs[group].update(
          mine(grads), group_state, mine(params))
      new_params |= optax.apply_updates(mine(params), updates)
    return new_params, new_state, norm


def build(
    config: config_lib.Optim,
    groups: Sequence[plan_lib.Group],
    rows: Sequence[resolve.Row],
    steps: int,
) -> Optimizer:
  """The optimiser of a plan.

  Args:
    config: Rates and kind.
    groups: The plan's.
    rows: Say which leaf belongs to which group.
    steps: Length of the run; a group's schedule spans from its start to the end.

  Raises:
    errors.UserError: If a name or number in `config` is out of range, or if
      nothing learns.
  """
  _check(config)
  learning = {g.name: g for g in groups if g.unfreeze_step is not None}
  if not learning:
    raise errors.UserError(
        "No group learns: every group has unfreeze_step=None. Give one a step.")
  return Optimizer(
      txs={name: _tx(config, schedule(config, steps - group.unfreeze_step,
                                      config.lr * group.lr_mult))
           for name, group in learning.items()},
      members={name: tuple(row.name for row in rows if row.group == name)
               for name in learning},
      starts={name: group.unfreeze_step for name, group in learning.items()},
      clip_norm=config.clip_norm)


def schedule(config: config_lib.Optim, steps: int, peak: float) -> optax.Schedule:
  """Linear warm-up to `peak`, then the named decay until `steps`."""
  warmup = max(min(config.warmup_steps, steps - 1), 0)
  rest, end = max(steps - warmup, 1), peak * config.end_factor
  decay = {
      "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.end_factor),
      "linear": lambda: optax.linear_schedule(peak, end, rest),
      "inverse_sqrt": lambda: _inverse_sqrt(peak, max(warmup, 1)),
      "constant": lambda: optax.constant_schedule(peak),
  }[config.schedule]()
  # The first update has count 0; a warm-up from 0 would waste it.
  ramp = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
  return optax.join_schedules((ramp, decay), (warmup,)) if warmup else decay


def _inverse_sqrt(peak: float, warmup: int) -> optax.Schedule:
  # Joined after a warm-up, it is asked for (unused) negative counts too.
  return lambda count: peak * (warmup / (jnp.maximum(count, 0) + warmup)) ** 0.5


def _tx(
    config: config_lib.Optim, rate: optax.Schedule
) -> optax.GradientTransformation:
  decays = lambda params: {
      name: tree.match(_NO_DECAY, name) is None for name in params}
  decay = dict(weight_decay=config.weight_decay, mask=decays)
  return {
      "adamw": lambda: optax.adamw(rate, b1=config.b1, b2=config.b2, **decay),
      "lion": lambda: optax.lion(rate, b1=config.b1, b2=config.b2, **decay),
      "adafactor": lambda: optax.adafactor(
          rate, weight_decay_rate=config.weight_decay or None,
          weight_decay_mask=decays),
      "sgd": lambda: optax.chain(
          optax.add_decayed_weights(config.weight_decay, decays),
          optax.sgd(rate, momentum=config.b1)),
  }[config.name]()


def _check(config: config_lib.Optim) -> None:
  for field, choices in (
      ("name", ("adamw", "adafactor", "sgd", "lion")),
      ("schedule", ("cosine", "linear", "inverse_sqrt", "constant"))):
    if getattr(config, field) not in choices:
      raise errors.UserError(
          f"optim.{field} is {getattr(config, field)!r}, must be one of"
          f" {', '.join(choices)}.")
  for field, low in (("lr", 0), ("warmup_steps", 0), ("weight_decay", 0),
                     ("clip_norm", 0), ("end_factor", 0), ("accumulate", 1)):
    value = getattr(config, field)
    if not value >= low or (field == "lr" and not value > 0):
      bound = "> 0" if field == "lr" else f">= {low}"
      raise errors.UserError(f"optim.{field} is {value}, must be {bound}.")
