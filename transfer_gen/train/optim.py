"""Optimisers over the leaves that learn, one state a group.

An optimiser state here is a dict from group name to that group's Optax state. It
holds the groups that learn now and no others: what is frozen has no slot, and a
group that starts late starts with its own count and fresh moments. Of a table that
learns in part, the slots are those of its learning rows.
"""

from collections.abc import Mapping, Sequence
import dataclasses

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

_SCHEDULES = ("cosine", "linear", "inverse_sqrt", "constant")
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
    tables: Which rows learn, of the leaves where not all do.
    anchors: What holds a group to its source; its state is the last part of the
      group's.
  """
  txs: Mapping[str, optax.GradientTransformation]
  members: Mapping[str, tuple[str, ...]]
  starts: Mapping[str, int]
  clip_norm: float
  tables: Mapping[str, resolve.Table]
  anchors: Mapping[str, anchors_lib.Anchor]

  def learning(self, state: Mapping[str, optax.OptState]) -> frozenset[str]:
    """Names of the leaves that a state of this optimiser updates."""
    return frozenset(name for group in state for name in self.members[group])

  def extend(self, state: State, params: _Params, step: int) -> State:
    """Adds the groups that learn from `step` on to a state; {} is the empty one."""
    added = {}
    for group, start in self.starts.items():
      if start <= step and group not in state:
        mine = {n: self._part(n, params[n]) for n in self.members[group]}
        held = ((self.anchors[group].tx.init(mine),) if group in self.anchors else ())
        added[group] = self.txs[group].init(mine) + held
    return {**state, **added} if added else state

  def split(
      self, params: _Params, state: State
  ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What learns (of a table: the rows that do, alone), and all that does not.

    A table that learns in part is on both sides, whole on the second.
    """
    learning, frozen = tree.partition(params, self.learning(state))
    parts = {name: self._part(name, x) for name, x in learning.items()}
    return parts, {**frozen, **{n: learning[n] for n in learning if n in self.tables}}

  def join(self, learning: _Params, frozen: _Params) -> dict[str, jax.Array]:
    """The params that `split` split; other rows of a table keep their bits."""
    whole = {name: self._whole(name, x, frozen) for name, x in learning.items()}
    return tree.merge(whole, {n: x for n, x in frozen.items() if n not in learning})

  def mixed(self, learning: _Params, state: State, key: jax.Array) -> _Params:
    """What learns as the loss shall see it: under an anchor that mixes, mixed."""
    for group, anchor in self.anchors.items():
      if group in state:
        mine = {name: learning[name] for name in self.members[group]}
        learning = {**learning, **anchor.mix(mine, state[group][-1], key)}
    return learning

  def update(
      self, grads: _Params, state: State, params: _Params
  ) -> tuple[dict[str, jax.Array], State, jax.Array]:
    """One update of the learning leaves, each as `split` gives it.

    Args:
      grads: Their gradients, and no others.
      state: Says which groups learn.
      params: Their values.

    Returns:
      Their new values, the new state, and the norm of `grads` with those of the
      anchors' penalties, before clipping.
    """
    grads = self._anchored(grads, state, params)
    norm = optax.tree.norm(grads)
    if self.clip_norm:
      factor = jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))
      grads = jax.tree.map(lambda g: g * factor, grads)
    new_params, new_state = {}, {}
    for group, group_state in state.items():
      mine = lambda flat: {n: flat[n] for n in self.members[group]}  # pylint: disable=cell-var-from-loop
      held = group_state[-1:] if group in self.anchors else ()
      updates, new = self.txs[group].update(
          mine(grads), group_state[:-1] if held else group_state, mine(params))
      new_state[group] = new + held
      new_params |= optax.apply_updates(mine(params), updates)
    return new_params, new_state, norm

  def _anchored(self, grads, state, params):
    for group, anchor in self.anchors.items():
      if group in state:
        mine = {name: grads[name] for name in self.members[group]}
        pulled, _ = anchor.tx.update(mine, state[group][-1], params)
        grads = {**grads, **pulled}
    return grads

  def _part(self, name, value):
    if name not in self.tables:
      return value
    return value[_at(self.tables[name])]

  def _whole(self, name, value, frozen):
    if name not in self.tables:
      return value
    # Said to be unique, so that its gradient is a plain gather of these rows.
    return frozen[name].at[_at(self.tables[name])].set(
        value, indices_are_sorted=True, unique_indices=True)


# Where nothing learns.
NOTHING = Optimizer(
    txs={}, members={}, starts={}, clip_norm=0.0, tables={}, anchors={})


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
    errors.UserError: If a name or number in `config` or a group is out of range, if
      a group would start after the end or cannot have its anchor, or if nothing
      learns.
  """
  _check(config)
  learning = {g.name: g for g in groups if g.unfreeze_step is not None}
  if not learning:
    raise errors.UserError(
        "No group learns: every group has unfreeze_step=None. Give one a step.")
  for group in learning.values():
    _check_group(group, steps)
  return Optimizer(
      txs={name: _tx(_own(config, group), group, steps)
           for name, group in learning.items()},
      members={name: tuple(row.name for row in rows if row.group == name)
               for name in learning},
      starts={name: group.unfreeze_step for name, group in learning.items()},
      clip_norm=config.clip_norm,
      tables={row.name: row.table for row in rows if row.table is not None},
      anchors={name: anchors_lib.build(
          group, [row for row in rows if row.group == name])
               for name, group in learning.items() if group.anchor is not None})


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


def _at(table: resolve.Table) -> tuple[slice | np.ndarray, ...]:
  """Index of a table's rows."""
  return (slice(None),) * table.dim + (table.index,)


def _own(config: config_lib.Optim, group: plan_lib.Group) -> config_lib.Optim:
  """The run's settings with those that the group has of its own."""
  own = {field: getattr(group, field) for field in ("schedule", "weight_decay")
         if getattr(group, field) is not None}
  return dataclasses.replace(config, lr=config.lr * group.lr_mult, **own)


def _tx(
    config: config_lib.Optim, group: plan_lib.Group, steps: int
) -> optax.GradientTransformation:
  """A chain, whose state is a tuple."""
  rate = schedule(config, steps - group.unfreeze_step, config.lr)
  decays = lambda params: {
      name: tree.match([group.no_decay], name) is None for name in params}
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
      ("schedule", _SCHEDULES)):
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


def _check_group(group: plan_lib.Group, steps: int) -> None:
  if group.schedule not in (None, *_SCHEDULES):
    raise errors.UserError(
        f"Group {group.name!r}: schedule is {group.schedule!r}, must be one of"
        f" {', '.join(_SCHEDULES)}, or None for the run's.")
  if group.unfreeze_step >= steps:
    raise errors.UserError(
        f"Group {group.name!r}: unfreeze_step is {group.unfreeze_step}, and the run"
        f" ends after {steps} steps. Let it start before, train longer, or freeze it"
        " with None.")
