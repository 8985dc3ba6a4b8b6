"""Anchors hold a group's weights near their source, by a penalty or by mixing.

An anchor keeps a copy of the group's values from the moment that the group starts to
learn. These are the source's values, because a group is frozen until then. They are
part of the group's optimizer state, so that checkpoints hold them and a resumed run is
exact. Groups without an anchor keep no copy.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import zlib

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np

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
    keep: Params of the group -> the arrays that are kept of them.
    penalty: (params, kept arrays) -> f32[], what the anchor adds to the loss; None if
      it adds nothing.
    mix: (params, kept arrays, key) -> replacements, by name, for the leaves that the
      loss must see with other values; {} if there are none.
  """
  keep: Callable[[_Params], State]
  penalty: Callable[[_Params, State], jax.Array] | None = None
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
    return Anchor(keep=_keeper(fresh), penalty=functools.partial(
        l2_sp, alpha=anchor.alpha, beta=anchor.beta, fresh=fresh))
  if all(entries.all() for entries in fresh.values()):
    raise errors.UserError(
        f"Group {group.name!r}: anchor is {anchor!r}, but nothing in the group comes"
        " from a source. Remove the anchor.")
  if isinstance(anchor, plan_lib.EWC):
    return Anchor(
        keep=functools.partial(
            _keep_fisher, read=_fisher(group, anchor.fisher, rows)),
        penalty=functools.partial(ewc, strength=anchor.strength))
  assert isinstance(anchor, plan_lib.Mixout), anchor
  # Mixout has no penalty: gradients pass unchanged, and the values are only kept.
  return Anchor(keep=_keeper(fresh), mix=lambda params, state, key: mixout(
      params, state, key, anchor.p, fresh))


def l2_sp(
    params: _Params, held: State, alpha: float, beta: float, fresh: _Fresh
) -> jax.Array:
  """Computes the L2-SP penalty, f32[].

  It is alpha / 2 ||w - w0||^2 over entries that came from a source with value w0, and
  beta / 2 ||w||^2 over the fresh ones (Li et al., 2018, "Explicit Inductive Bias for
  Transfer Learning with Convolutional Networks").

  Args:
    params: w, by name.
    held: w0, of the leaves that are not fresh as a whole.
    alpha: Strength for entries from a source, at least 0.
    beta: Strength for fresh entries, at least 0.
    fresh: Which entries are fresh, by leaf name.
  """
  total = jnp.zeros(())
  for name, param in params.items():
    if name not in held:
      total += 0.5 * beta * _squares(param)
      continue
    apart = param - held[name]["source"]
    # Leaves that are copied whole skip the `where`, and its array of their size.
    if fresh[name].any():
      total += 0.5 * beta * _squares(jnp.where(fresh[name], param, 0))
      apart = jnp.where(fresh[name], 0, apart)
    total += 0.5 * alpha * _squares(apart)
  return total


def ewc(params: _Params, held: State, strength: float) -> jax.Array:
  """Computes the penalty of elastic weight consolidation, f32[].

  It is strength / 2 sum F (w - w0)^2, where F is the diagonal of the Fisher information
  at the source w0 (Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in
  neural networks").

  Args:
    params: w, by name.
    held: w0 and F of each leaf, in its shape.
    strength: Factor of the penalty, at least 0.
  """
  total = jnp.zeros(())
  for name, param in params.items():
    apart = param - held[name]["source"]
    total += 0.5 * strength * _squares(apart, held[name]["fisher"])
  return total


def mixout(
    params: _Params, state: State, key: jax.Array, p: float, fresh: _Fresh
) -> dict[str, jax.Array]:
  """Replaces random entries by the source's values (Mixout).

  With probability p an entry w is replaced by the source's value w0. The result m is
  then corrected to (m - p w0) / (1 - p), so that its mean over draws is w (Lee et al.,
  2020, "Mixout"). Fresh entries stay as they are.

  Args:
    params: Values of the group's leaves, by name.
    state: The source's values, as `Anchor.keep` returns them.
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


def _keeper(fresh: _Fresh) -> Callable[[_Params], State]:
  """Returns what keeps the values of leaves of which not all entries are fresh."""
  # Copies, because a step donates the buffers of its params, and the kept values must
  # not lie in them.
  return lambda params: {name: {"source": jnp.copy(x)} for name, x in params.items()
                         if not fresh[name].all()}


def _keep_fisher(
    params: _Params, read: Callable[[str], np.ndarray]) -> State:
  """Keeps values and Fisher information of leaves, which `read` returns by name."""
  # A copy, for the same reason as in `_keeper`. F takes the dtype of the param, so that
  # the penalty does not promote the gradient to another one.
  return {name: {"source": jnp.copy(x), "fisher": jnp.asarray(read(name), x.dtype)}
          for name, x in params.items()}


def _squares(x: jax.Array, factor: jax.Array | None = None) -> jax.Array:
  """Returns the sum of the squares of a leaf, each times a factor, in f32."""
  squares = jnp.square(x.astype(jnp.float32))
  return (squares if factor is None else squares * factor.astype(jnp.float32)).sum()


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
