"""Anchors hold a group's weights near their source, by a penalty or by mixing.

An anchor keeps a copy of the group's values from the moment that the group starts to
learn. These are the source's values, because a group is frozen until then. They are
part of the group's optimizer state, so that checkpoints hold them and a resumed run is
exact. Groups without an anchor keep no copy.
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
State = dict[str, dict[str, jax.Array]]  # The arrays that are kept for each leaf.
# By leaf name, bool: which entries came from no source. It broadcasts to the leaf.
_Fresh = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Anchor:
  """The anchor of one group.

  Attributes:
    tx: A transformation whose state holds the source's values. It adds the gradient of
      the penalty, if there is one.
    mix: (params, state of `tx`, key) -> replacements, by name, for the leaves that the
      loss must see with other values; {} if there are none.
  """
  tx: optax.GradientTransformation
  mix: Callable[[_Params, State, jax.Array], dict[str, jax.Array]] = (
      lambda params, state, key: {})


def build(group: plan_lib.Group, rows: Sequence[resolve.Row]) -> Anchor:
  """Builds the anchor of a group whose `anchor` is not None.

  Args:
    group: The group.
    rows: The resolved rows of the group.

  Raises:
    errors.UserError: If nothing in the group comes from a source (for Mixout and EWC).
      For `EWC`, also if a leaf is not a plain copy, or if the file has no Fisher
      information of its shape.
  """
  fresh = {row.name: fresh_entries(row) for row in rows}
  anchor = group.anchor
  if isinstance(anchor, plan_lib.L2SP):
    return Anchor(tx=l2_sp(anchor.alpha, anchor.beta, fresh))
  if all(entries.all() for entries in fresh.values()):
    raise errors.UserError(
        f"Group {group.name!r}: anchor is {anchor!r}, but nothing in the group comes"
        " from a source. Remove the anchor.")
  if isinstance(anchor, plan_lib.EWC):
    return Anchor(tx=ewc(anchor.strength, _fisher(group, anchor.fisher, rows)))
  assert isinstance(anchor, plan_lib.Mixout), anchor
  # Mixout has no penalty: gradients pass unchanged, and the values are only kept.
  return Anchor(tx=_keep_sources(fresh, lambda name, grad, param, held: grad),
                mix=lambda params, state, key: mixout(
                    params, state, key, anchor.p, fresh))


def l2_sp(alpha: float, beta: float, fresh: _Fresh) -> optax.GradientTransformation:
  """Adds the gradient of the L2-SP penalty.

  The penalty is alpha / 2 ||w - w0||^2 over entries that came from a source with value
  w0, and beta / 2 ||w||^2 over the fresh ones (Li et al., 2018, "Explicit Inductive
  Bias for Transfer Learning with Convolutional Networks").

  Args:
    alpha: Strength for entries from a source, at least 0.
    beta: Strength for fresh entries, at least 0.
    fresh: Which entries are fresh, by leaf name.
  """
  def pulled(name, grad, param, held):
    if held is None:
      return grad + beta * param
    pull = alpha * (param - held["source"])
    # Leaves that are copied whole skip the `where`, and its array of their size.
    if fresh[name].any():
      pull = jnp.where(fresh[name], beta * param, pull)
    return grad + pull

  return _keep_sources(fresh, pulled)


def ewc(
    strength: float, read: Callable[[str], np.ndarray]
) -> optax.GradientTransformation:
  """Adds the gradient of the elastic weight consolidation penalty.

  The penalty is strength / 2 sum F (w - w0)^2, where F is the diagonal of the Fisher
  information at the source w0 (Kirkpatrick et al., 2017, "Overcoming catastrophic
  forgetting in neural networks").

  Args:
    strength: Factor of the penalty, at least 0.
    read: Returns F for a leaf name, in the leaf's shape. It is called once per leaf,
      when the group starts to learn.
  """
  def init(params):
    # A copy, for the same reason as in `_keep_sources`. F takes the dtype of the
    # param, so that the penalty does not promote the gradient to another one.
    return {name: {"source": jnp.copy(x), "fisher": jnp.asarray(read(name), x.dtype)}
            for name, x in params.items()}

  def update(updates, state, params=None):
    assert params is not None  # Optax makes them optional; a penalty needs them.
    return {name: grad + strength * state[name]["fisher"] * (
        params[name] - state[name]["source"]) for name, grad in updates.items()}, state

  return optax.GradientTransformation(init, update)


def mixout(
    params: _Params, state: State, key: jax.Array, p: float, fresh: _Fresh
) -> dict[str, jax.Array]:
  """Replaces random entries by the source's values (Mixout).

  With probability p an entry w is replaced by the source's value w0. The result m is
  then corrected to (m - p w0) / (1 - p), so that its mean over draws is w (Lee et al.,
  2020, "Mixout"). Fresh entries stay as they are.

  Args:
    params: Values of the group's leaves, by name.
    state: The source's values, as the state of an `Anchor.tx`.
    key: Decides which entries are replaced.
    p: Probability of replacing an entry, in [0, 1).
    fresh: Which entries are fresh, by leaf name.
  """
  mixed = {}
  for name, held in state.items():
    param, source = params[name], held["source"]
    # A checksum of the name, and not the leaf's number: draws stay the same when
    # another leaf joins the group. Python's `hash` of a string differs from run to run.
    drawn = jax.random.bernoulli(
        jax.random.fold_in(key, zlib.crc32(name.encode())), p, param.shape)
    # (w - p w0) / (1 - p) is written as w0 + (w - w0) / (1 - p), and the other case is
    # w0 itself, so that an entry that is still at its source stays there exactly.
    mixed[name] = jnp.where(
        drawn | fresh[name], jnp.where(fresh[name], param, source),
        source + (param - source) / (1 - p))
  return mixed


def fresh_entries(row: resolve.Row) -> np.ndarray:
  """Returns which entries of the learning part of a leaf came from no source.

  Returns:
    bool, of a shape that broadcasts to the part that learns.
  """
  ndim = len(row.spec.shape)
  # Dimensions of size 1 broadcast: a leaf without an axis map costs one bool.
  fresh = np.full((1,) * ndim, not row.sources)
  for change in row.changes:
    lacks = np.asarray(change.binding.index) < 0
    # Rows that are mixtures of source rows have no index, yet they do come from the
    # source, and an anchor may hold them.
    if change.binding.mixture is not None:
      lacks[change.binding.mixture.rows] = False
    fresh = fresh | lacks.reshape([-1 if d == change.dim else 1 for d in range(ndim)])
  # If only some rows learn, the anchor sees those alone. A dimension of size 1 says
  # the same of all rows, and has none to pick.
  if row.table is not None and fresh.shape[row.table.dim] > 1:
    fresh = fresh.take(row.table.index, row.table.dim)
  return fresh


def _keep_sources(
    fresh: _Fresh, pulled: Callable[..., jax.Array]
) -> optax.GradientTransformation:
  """Returns a transformation that keeps the values of leaves with a source.

  Args:
    fresh: Leaves whose entries are all fresh are not kept.
    pulled: (name, gradient, param, kept values or None) -> the new gradient.
  """
  def init(params):
    # Copies, because a step donates the buffers of its params, and the kept values must
    # not lie in them.
    return {name: {"source": jnp.copy(x)} for name, x in params.items()
            if not fresh[name].all()}

  def update(updates, state, params=None):
    assert params is not None  # Optax makes them optional; a penalty needs them.
    return {name: pulled(name, grad, params[name], state.get(name))
            for name, grad in updates.items()}, state

  return optax.GradientTransformation(init, update)


def _fisher(
    group: plan_lib.Group, file: str, rows: Sequence[resolve.Row]
) -> Callable[[str], np.ndarray]:
  """Returns a function that reads the Fisher information of the learning rows."""
  path = epath.Path(file)
  if not path.exists():
    raise errors.UserError(
        f"Group {group.name!r}: anchor.fisher is {str(path)!r}, but there is no such"
        " file. Write one with fisher.save(path, fisher.estimate(...)).")
  stored = numpy_files.open_npz(path)
  # All leaves are checked now, from the specs alone, and not when the group starts to
  # learn, which may be hours into the run.
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
        f"Group {group.name!r}: EWC weighs each entry of the source, and"
        f" {row.name} is not a plain copy of one ({row.how}). Put it into another"
        " group, or give the group another anchor.")
  found = stored.specs.get(row.sources[0])
  if found is None or found.shape != row.spec.shape:
    raise errors.UserError(
        f"{stored.path}: the Fisher information of {row.sources[0]}"
        f" {f'has shape {found.shape}' if found else 'is missing'}, and group"
        f" {group.name!r} needs {row.spec.shape}. Estimate it again with the source of"
        " this plan.")
