"""Anchors: what holds a group to its source, by a penalty or by mixing.

The values to hold to are those that the group learns from on: the source's, as
restored, for what waited was frozen. They are part of the group's optimiser state, so
that a checkpoint holds them and a resumed run is exact; other groups have none.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import zlib

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np
import optax

from transfer_gen import errors
from transfer_gen.formats import numpy_files
from transfer_gen.formats import raw
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_Params = Mapping[str, jax.Array]
State = dict[str, dict[str, jax.Array]]  # What is held of each leaf, by its name.
# Which entries started fresh, by leaf; broadcasts to it.
_Fresh = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Anchor:
  """What holds a group.

  Attributes:
    tx: Its state holds the source's values; adds the gradient of a penalty, if any.
    mix: (params, state of `tx`, key) -> the leaves that the loss sees as others.
  """
  tx: optax.GradientTransformation
  mix: Callable[[_Params, State, jax.Array], dict[str, jax.Array]] = (
      lambda params, state, key: {})


def build(group: plan_lib.Group, rows: Sequence[resolve.Row]) -> Anchor:
  """The anchor of a group that has one.

  Args:
    group: The group.
    rows: Its own.

  Raises:
    errors.UserError: If nothing in the group comes from a source; for `EWC`: if a
      leaf is no plain copy, or the file has no Fisher information of its shape.
  """
  fresh = {row.name: fresh_entries(row) for row in rows}
  anchor = group.anchor
  if isinstance(anchor, plan_lib.L2SP):
    return Anchor(tx=l2_sp(anchor.alpha, anchor.beta, fresh))
  if all(entries.all() for entries in fresh.values()):
    raise errors.UserError(
        f"Group {group.name!r}: anchor is {anchor!r}, and nothing in the group comes"
        " from a source. Remove the anchor.")
  if isinstance(anchor, plan_lib.EWC):
    return Anchor(tx=ewc(anchor.strength, _fisher(group, rows)))
  return Anchor(tx=_holds(fresh, lambda name, grad, param, held: grad),
                mix=lambda params, state, key: mixout(
                    params, state, key, anchor.p, fresh))


def l2_sp(alpha: float, beta: float, fresh: _Fresh) -> optax.GradientTransformation:
  """Adds the gradient of alpha / 2 ||w - w0||^2, or beta / 2 ||w||^2 where fresh.

  Source: Li et al., 2018, Explicit Inductive Bias for Transfer Learning.
  """
  def pulled(name, grad, param, held):
    if held is None:
      return grad + beta * param
    pull = alpha * (param - held["source"])
    if fresh[name].any():
      pull = jnp.where(fresh[name], beta * param, pull)
    return grad + pull

  return _holds(fresh, pulled)


def ewc(
    strength: float, read: Callable[[str], np.ndarray]
) -> optax.GradientTransformation:
  """Adds the gradient of strength / 2 sum F (w - w0)^2.

  Source: Kirkpatrick et al., 2017, Overcoming catastrophic forgetting.

  Args:
    strength: Of the penalty.
    read: Gives F of a leaf, of its shape; called once, when the group starts.
  """
  def init(params):
    return {name: {"source": jnp.copy(x), "fisher": jnp.asarray(read(name), x.dtype)}
            for name, x in params.items()}

  def update(updates, state, params):
    return {name: grad + strength * state[name]["fisher"] * (
        params[name] - state[name]["source"]) for name, grad in updates.items()}, state

  return optax.GradientTransformation(init, update)


def mixout(
    params: _Params, state: State, key: jax.Array, p: float, fresh: _Fresh
) -> dict[str, jax.Array]:
  """Each entry w becomes (w0 with probability p, or w; - p w0) / (1 - p).

  The mean over draws is w. Entries that started fresh stay as they are.

  Source: Lee et al., 2020, Mixout.
  """
  mixed = {}
  for name, held in state.items():
    param, source = params[name], held["source"]
    drawn = jax.random.bernoulli(
        jax.random.fold_in(key, zlib.crc32(name.encode())), p, param.shape)
    # As w or w0 plus what the mean lacks: an entry at its source stays there exactly.
    mixed[name] = jnp.where(
        drawn | fresh[name], jnp.where(fresh[name], param, source),
        source + (param - source) / (1 - p))
  return mixed


def fresh_entries(row: resolve.Row) -> np.ndarray:
  """Which entries of what learns in a leaf no source reached; broadcasts to it."""
  ndim = len(row.spec.shape)
  fresh = np.full((1,) * ndim, not row.sources)
  for change in row.changes:
    lacks = np.asarray(change.binding.index) < 0
    if change.binding.mixture is not None:
      lacks[change.binding.mixture.rows] = False
    fresh = fresh | lacks.reshape([-1 if d == change.dim else 1 for d in range(ndim)])
  if row.table is not None and fresh.shape[row.table.dim] > 1:
    fresh = fresh.take(row.table.index, row.table.dim)
  return fresh


def _holds(fresh: _Fresh, pulled) -> optax.GradientTransformation:
  """Holds the leaves that a source reached; `pulled` gives their new gradients."""
  def init(params):
    # Copies: a step gives its buffers away, and these must not be the params'.
    return {name: {"source": jnp.copy(x)} for name, x in params.items()
            if not fresh[name].all()}

  def update(updates, state, params):
    return {name: pulled(name, grad, params[name], state.get(name))
            for name, grad in updates.items()}, state

  return optax.GradientTransformation(init, update)


def _fisher(
    group: plan_lib.Group, rows: Sequence[resolve.Row]
) -> Callable[[str], np.ndarray]:
  """Reads the Fisher information of what learns in a leaf."""
  path = epath.Path(group.anchor.fisher)
  if not path.exists():
    raise errors.UserError(
        f"Group {group.name!r}: anchor.fisher is {str(path)!r}, and there is no such"
        " file. Write one with fisher.save(path, fisher.estimate(...)).")
  stored = numpy_files.open_npz(path)
  by_name = {row.name: row for row in rows}
  for row in rows:
    _check_fisher(group, row, stored)

  def read(name):
    row = by_name[name]
    ((_, value),) = stored.read([row.sources[0]])
    return value if row.table is None else value.take(row.table.index, row.table.dim)

  return read


def _check_fisher(group: plan_lib.Group, row: resolve.Row, stored: raw.Raw) -> None:
  if row.how != "copy":
    raise errors.UserError(
        f"Group {group.name!r}: its anchor weighs the source's own entries, and"
        f" {row.name} is no plain copy ({row.how}). Give it another group, or the"
        " group another anchor.")
  found = stored.specs.get(row.sources[0])
  if found is None or found.shape != row.spec.shape:
    raise errors.UserError(
        f"{stored.path}: has {row.sources[0]} {found.shape if found else 'not at all'},"
        f" and group {group.name!r} needs {row.spec.shape}. Estimate it again from the"
        " source of this plan.")
