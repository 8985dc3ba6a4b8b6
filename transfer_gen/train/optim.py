"""Optimizers over the leaves that learn, with one state per group.

The optimizer state is a dict from group name to the Optax state of that group. It
holds only the groups that learn now: frozen leaves have no slots, and a group that
starts late starts with a count of zero and fresh moments. If only some rows of a table
learn, the state has slots for those rows only.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import optax

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.train import anchors as anchors_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_Params = Mapping[str, jax.Array]
# By group, the state of an `optax.chain` (a tuple), and behind it that of the anchor.
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """The gradient transformations of a run, and the leaves that each one updates.

  Attributes:
    txs: From a run's learning rate, a number or f32[], to the gradient transformation
      of each group that ever learns, by group name. So the rate can be an argument of
      a compiled step, which runs with other rates then share.
    members: Names of the leaves in each of these groups.
    starts: First step at which each of these groups learns.
    clip_norm: Largest global norm of the gradient, over all leaves that learn; larger
      gradients are scaled down to it. 0 means no clipping.
    tables: By leaf name, the rows that learn, for leaves where only some rows do.
    anchors: By group name, the anchor that holds a group to its source. The state of
      an anchor is the last element of its group's state.
    schedules: Learning rate of each group after a number of its own updates.
    lr: The run's learning rate, for steps that are given none.
  """
  txs: Mapping[str, Callable[[Any], optax.GradientTransformation]]
  members: Mapping[str, tuple[str, ...]]
  starts: Mapping[str, int]
  clip_norm: float
  tables: Mapping[str, resolve.Table]
  anchors: Mapping[str, anchors_lib.Anchor]
  schedules: Mapping[str, optax.Schedule] = dataclasses.field(default_factory=dict)
  lr: float = 1.0

  def rates(self, step: int) -> dict[str, float]:
    """Returns the learning rates after `step` steps, of the groups that learn then."""
    return {group: np.asarray(rate(step - self.starts[group])).item()
            for group, rate in self.schedules.items() if self.starts[group] <= step}

  def learning(self, state: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of the leaves that learn under `state`."""
    return frozenset(name for group in state for name in self.members[group])

  def extend(self, state: State, params: _Params, step: int) -> State:
    """Returns `state` with the groups that have started to learn by `step` added.

    Args:
      state: The state so far; {} before the first step.
      params: All params, by name; new slots take their shapes and values from them.
      step: The number of the next step.
    """
    added = {}
    for group, start in self.starts.items():
      # `<=` and not `==`: a resumed run builds all groups of its checkpoint at once.
      if start <= step and group not in state:
        mine = {n: self._part(n, params[n]) for n in self.members[group]}
        # Anchors copy the params now, before the group's first update changes them.
        chain = self.slots(group, mine)
        held = (self.anchors[group].keep(mine),) if group in self.anchors else ()
        added[group] = chain + held
    return {**state, **added} if added else state

  def slots(self, group: str, params: Any) -> Any:
    """Returns the state of a group's transformation before its first update."""
    return self.txs[group](self.lr).init(params)

  def split(
      self, params: _Params, state: State
  ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Splits params into the leaves that learn and the frozen ones.

    A table of which only some rows learn is in both results: those rows in the first,
    the whole table in the second.
    """
    learning, frozen = tree.partition(params, self.learning(state))
    parts = {name: self._part(name, x) for name, x in learning.items()}
    return parts, {**frozen, **{n: learning[n] for n in learning if n in self.tables}}

  def join(self, learning: _Params, frozen: _Params) -> dict[str, jax.Array]:
    """Inverts `split`; the frozen rows of a table keep their bits."""
    whole = {name: self._whole(name, x, frozen) for name, x in learning.items()}
    return tree.merge(whole, {n: x for n, x in frozen.items() if n not in learning})

  def mix(self, learning: _Params, state: State, key: jax.Array) -> _Params:
    """Returns the learning leaves as the loss sees them, after anchors such as Mixout.

    Args:
      learning: The leaves that learn, as `split` returns them.
      state: The optimizer state, which holds the source's values.
      key: Decides what is drawn.
    """
    for group, anchor in self.anchors.items():
      if group in state:
        mine = {name: learning[name] for name in self.members[group]}
        learning = {**learning, **anchor.mix(mine, state[group][-1], key)}
    return learning

  def penalties(self, params: _Params, state: State) -> dict[str, jax.Array]:
    """Returns `anchor`, the sum of the anchors' penalties; {} if there are none.

    Args:
      params: Values of the leaves that learn, as `split` returns them.
      state: The optimizer state, which holds the source's values.
    """
    found = [penalty({name: params[name] for name in self.members[group]},
                     state[group][-1]) for group, penalty in self._penalized(state)]
    return {"anchor": functools.reduce(jnp.add, found)} if found else {}

  def update(
      self, grads: _Params, state: State, params: _Params, strength: Any = 1.0,
      lr: Any = None
  ) -> tuple[dict[str, jax.Array], State, jax.Array]:
    """Updates the learning leaves once.

    Args:
      grads: Gradients of the leaves that learn, by name.
      state: The optimizer state; its keys are the groups that learn.
      params: Values of the same leaves, as `split` returns them.
      strength: Factor of the anchors' penalties, a number or f32[].
      lr: The run's learning rate, f32[]; if None, it is the optimizer's own.

    Returns:
      The new values, the new state, and the global norm of the gradient, which
      includes the anchors' penalties and is taken before clipping.
    """
    # Penalties are part of the loss in the papers, so they are clipped with it.
    grads = self._anchored(grads, state, params, strength)
    norm = optax.tree.norm(grads)
    grads = self._clipped(grads, norm)
    new_params, new_state = {}, {}
    for group, group_state in state.items():
      members = self.members[group]
      group_grads = {name: grads[name] for name in members}
      group_params = {name: params[name] for name in members}
      # An anchor's state holds the source's values, which never change.
      held = group_state[-1:] if group in self.anchors else ()
      result: Any = self.txs[group](self.lr if lr is None else lr).update(
          group_grads, group_state[:-1] if held else group_state, group_params)
      updates, chain = result
      new_state[group] = chain + held
      updated: Any = optax.apply_updates(group_params, updates)
      new_params |= updated
    return new_params, new_state, norm

  # Not a part of the loss that the step differentiates: that is divided over devices
  # and micro-batches, and penalties would be added once for each.
  def _anchored(self, grads, state, params, strength):
    for group, penalty in self._penalized(state):
      mine = {name: params[name] for name in self.members[group]}
      pulls = jax.grad(penalty)(mine, state[group][-1])
      grads = {**grads, **{
          name: grads[name] + (strength * pull).astype(pull.dtype)
          for name, pull in pulls.items()}}
    return grads

  def _penalized(self, state):
    """Returns the groups that learn now and have a penalty, with it."""
    return [(group, anchor.penalty) for group, anchor in self.anchors.items()
            if group in state and anchor.penalty is not None]

  def _clipped(self, grads, norm):
    # Not by `optax.clip_by_global_norm` in each chain, which would see the norm of one
    # group only.
    if not self.clip_norm:
      return grads
    # 1e-6 keeps a zero gradient from dividing by zero.
    factor = jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: g * factor, grads)

  def _part(self, name, value):
    if name not in self.tables:
      return value
    return value[_at(self.tables[name])]

  def _whole(self, name, value, frozen):
    if name not in self.tables:
      return value
    # XLA is promised sorted, unique indices, so that the gradient with respect to
    # these rows is a plain gather.
    return frozen[name].at[_at(self.tables[name])].set(
        value, indices_are_sorted=True, unique_indices=True)


# The optimizer of a model that is only evaluated: no leaf learns.
NOTHING = Optimizer(
    txs={}, members={}, starts={}, clip_norm=0.0, tables={}, anchors={})


def build(
    config: config_lib.Optim,
    groups: Sequence[plan_lib.Group],
    rows: Sequence[resolve.Row],
    steps: int,
) -> Optimizer:
  """Builds the optimizer of a plan.

  Args:
    config: The kind of optimizer, its learning rate and its schedule.
    groups: The plan's trainability groups.
    rows: The resolved rows, which assign each leaf to a group.
    steps: Length of the run in steps; the schedule of a group spans from the group's
      first step to the end.

  Raises:
    errors.UserError: If a name or number in `config` or a group is out of range, if
      a group would start after the end or cannot have its anchor, or if nothing
      learns.
  """
  _check(config)
  starts = {g.name: g.unfreeze_step for g in groups if g.unfreeze_step is not None}
  if not starts:
    raise errors.UserError(
        "No group learns: every group has unfreeze_step=None. Give one a step.")
  learning = {group.name: group for group in groups if group.name in starts}
  for name, group in learning.items():
    _check_group(group, starts[name], steps)
  owned = {name: [row for row in rows if row.group == name] for name in learning}
  own = {name: _own(config, group, 1 - starts[name] / steps)
         for name, group in learning.items()}
  rates = {name: schedule(mine, steps - starts[name], mine.lr * group.lr_mult)
           for (name, mine), group in zip(own.items(), learning.values(), strict=True)}
  return Optimizer(
      txs={name: functools.partial(_tx, own[name], group, steps - starts[name])
           for name, group in learning.items()},
      members={name: tuple(row.name for row in mine) for name, mine in owned.items()},
      starts=starts,
      clip_norm=config.clip_norm,
      tables={row.name: row.table for row in rows if row.table is not None},
      anchors={name: anchors_lib.build(group, owned[name])
               for name, group in learning.items() if group.anchor is not None},
      schedules=rates, lr=config.lr)


def schedule(config: config_lib.Optim, steps: int, peak: Any) -> optax.Schedule:
  """Returns the learning rate schedule: a linear warm-up, then the decay.

  Args:
    config: Its `schedule`, `warmup_steps` and `end_factor` are read.
    steps: Step at which the decay ends.
    peak: Learning rate at the end of the warm-up, a number or f32[].
  """
  # A group that starts late may have fewer steps left than the warm-up takes; it then
  # still reaches its peak. Optax refuses a decay of 0 steps, so `rest` is at least 1.
  warmup = max(min(config.warmup_steps, steps - 1), 0)
  rest, end = max(steps - warmup, 1), peak * config.end_factor
  decay = {
      "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.end_factor),
      "linear": lambda: optax.linear_schedule(peak, end, rest),
      "slanted": lambda: optax.linear_schedule(peak, end, rest),
      "inverse_sqrt": lambda: _inverse_sqrt(peak, max(warmup, 1)),
      "constant": lambda: optax.constant_schedule(peak),
  }[config.schedule]()
  # The first update has count 0; a warm-up from 0 would waste it.
  low = end if config.schedule == "slanted" else peak / (warmup + 1)
  ramp = optax.linear_schedule(low, peak, warmup)
  return optax.join_schedules((ramp, decay), (warmup,)) if warmup else decay


def _inverse_sqrt(peak: Any, warmup: int) -> optax.Schedule:
  # `optax.join_schedules` evaluates all its schedules at every count, so behind a
  # warm-up this one sees negative counts, whose values are not used.
  return lambda count: peak * (warmup / (jnp.maximum(count, 0) + warmup)) ** 0.5


def _at(table: resolve.Table) -> tuple[slice | np.ndarray, ...]:
  """Returns the index that selects the learning rows of a table."""
  return (slice(None),) * table.dim + (table.index,)


def _own(
    config: config_lib.Optim, group: plan_lib.Group, left: float) -> config_lib.Optim:
  """Returns the run's settings, overridden by those that the group sets.

  Args:
    config: The run's settings.
    group: The group.
    left: Share of the run in which the group learns, in (0, 1].
  """
  own: dict[str, Any] = {
      field: getattr(group, field) for field in ("schedule", "weight_decay")
      if getattr(group, field) is not None}
  # The paper's warm-up is a share of the training, and so of what is left of it here.
  if own.get("schedule", config.schedule) == "slanted":
    own["warmup_steps"] = round(config.warmup_steps * left)
  return dataclasses.replace(config, **own)


def _tx(
    config: config_lib.Optim, group: plan_lib.Group, steps: int, lr: Any
) -> optax.GradientTransformation:
  """Returns a group's transformation: an `optax.chain`, whose state is a tuple."""
  rate = schedule(config, steps, lr * group.lr_mult)
  # A function and not a dict of names: Optax calls it with the leaves at hand.
  decays = lambda params: {
      name: tree.match([group.no_decay], name) is None for name in params}
  decay = dict(weight_decay=config.weight_decay, mask=decays)
  return {
      "adamw": lambda: optax.adamw(rate, b1=config.b1, b2=config.b2, **decay),
      "lion": lambda: optax.lion(rate, b1=config.b1, b2=config.b2, **decay),
      # Optax leaves the decay out of the chain only if the rate is None, and not if it
      # is 0. It adds this decay behind the learning rate, which thus does not scale it.
      # `b1` and `b2` do not act here: Adafactor has decays of its own.
      "adafactor": lambda: optax.adafactor(
          rate, weight_decay_rate=config.weight_decay or None,
          weight_decay_mask=decays),
      "sgd": lambda: optax.chain(
          # Before the momentum, as L2 regularization in PyTorch's SGD; AdamW and Lion
          # decay after theirs.
          optax.add_decayed_weights(config.weight_decay, decays),
          optax.sgd(rate, momentum=config.b1)),
  }[config.name]()


def _check(config: config_lib.Optim) -> None:
  config_lib.check(config, "optim")
  # What a run leaves open is chosen before.
  for field, given in (
      ("lr", config.lr > 0), ("warmup_steps", config.warmup_steps >= 0)):
    if not given:
      raise errors.UserError(
          f"optim.{field} is {getattr(config, field)}, which a run replaces by a number"
          " that it chooses; here one must be given.")


def _check_group(group: plan_lib.Group, start: int, steps: int) -> None:
  if start >= steps:
    raise errors.UserError(
        f"Group {group.name!r}: unfreeze_step is {start}, and the run"
        f" ends after {steps} steps. Let it start before, train longer, or freeze it"
        " with None.")
