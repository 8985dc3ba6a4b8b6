"""Meshes of devices, and where each param lives on them by its logical axes."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import difflib
from typing import Any

import jax

from transfer_gen import errors
from transfer_gen import tree

AXES = ("data", "fsdp", "tensor")
NONE = "none"  # In rules: the axis stays whole.
# Pairs of a logical axis and a mesh axis. Of an axis, the first pair that fits holds.
Rules = Sequence[tuple[str, str]]
Mesh = jax.sharding.Mesh | jax.sharding.AbstractMesh
# `gates`, `kv`, `latent` and `position` are not divided over `tensor`, which divides
# what a block produces and contracts again by itself (Megatron-LM, Shoeybi et al.,
# 2019). `fsdp` divides `embed`, which nearly every large leaf carries, or any other
# dimension: before a step computes with a param, it is put together (`whole_in_step`).
# Flax's own logical_to_mesh_axes raises if an axis name occurs twice, as `hidden` does
# in a recurrent kernel, so the names are mapped here.
_RULES: Rules = (
    ("vocab", "tensor"), ("heads", "tensor"), ("kv_heads", "tensor"),
    ("mlp", "tensor"), ("hidden", "tensor"), ("memory", "tensor"), ("embed", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undivided:
  """A dimension that rules give to a mesh axis which cannot divide it.

  Attributes:
    axis: Logical axis of the dimension.
    size: Its size.
    mesh_axis: The mesh axis.
    devices: Size of the mesh axis, of which `size` is no multiple.
    other: Another axis of the leaf that the mesh axis could divide; empty if there is
      none.
  """
  axis: str
  size: int
  mesh_axis: str
  devices: int
  other: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Division:
  """How a leaf is divided.

  Attributes:
    spec: The mesh axis of each dimension.
    undivided: Why the leaf is not divided over some mesh axes, one entry for each.
  """
  spec: jax.sharding.PartitionSpec
  undivided: tuple[Undivided, ...] = ()


def make_mesh(data: int = 0, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
  """Makes a mesh with axes data, fsdp and tensor over all devices.

  Args:
    data: Number of devices that divide the batch; 0 means all that `fsdp` and `tensor`
      leave.
    fsdp: Number of devices that divide both the batch and each param.
    tensor: Number of devices that divide heads, hidden units and vocabulary.

  Raises:
    errors.UserError: If the product is not the number of devices.
  """
  sizes = mesh_sizes(data, fsdp, tensor, jax.device_count())
  # The default of make_mesh, Explicit axes, refuses to contract a sharded dimension.
  return jax.make_mesh(
      sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def mesh_sizes(
    data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
  """Returns the sizes of the axes of a mesh of a number of devices.

  >>> mesh_sizes(0, 4, 2, 256)
  (32, 4, 2)

  Args:
    data: As for `make_mesh`, as are the next two.
    fsdp: Likewise.
    tensor: Likewise.
    devices: Number of devices.

  Raises:
    errors.UserError: If the product is not the number of devices; it says what would
      be.
  """
  # At least 1, so that the message below does not say that the product is 0.
  sizes = (data or max(devices // (fsdp * tensor), 1), fsdp, tensor)
  if sizes[0] * fsdp * tensor == devices:
    return sizes
  wide = _largest_divisor(devices, tensor)
  deep = _largest_divisor(devices // wide, fsdp)
  raise errors.UserError(
      f"parallel: data={sizes[0]} x fsdp={fsdp} x tensor={tensor} is"
      f" {sizes[0] * fsdp * tensor}, and there are {devices} devices. This would fit:"
      f" data={devices // wide // deep}, fsdp={deep}, tensor={wide}.")


def abstract_mesh(sizes: tuple[int, int, int]) -> jax.sharding.AbstractMesh:
  """Returns a mesh of these sizes without devices, to plan for more than there are."""
  return jax.sharding.AbstractMesh(
      sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def fitting_mesh(data: int = 0, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
  """Returns `make_mesh` of the same, or all devices along `data` if it does not fit.

  It is for work whose result does not depend on the mesh, such as generation with a run
  that was trained on other devices.
  """
  try:
    return make_mesh(data, fsdp, tensor)
  except errors.UserError:
    return make_mesh()


def divide(spec: tree.Spec, mesh: Mesh, rules: Rules = ()) -> Division:
  """Returns how a leaf is divided, and over which mesh axes it could not be.

  Each dimension takes the first mesh axis that a rule gives to its logical axis, that
  divides its size, and that no dimension before it has taken. If `fsdp` then divides no
  dimension of the leaf, it takes the largest one that it divides.

  Args:
    spec: The leaf.
    mesh: The mesh; only its sizes are read.
    rules: Rules that come before the defaults. The mesh axis `none` ends the search, so
      that the dimension stays whole.
  """
  # JAX refuses a PartitionSpec that names a mesh axis twice, as `hidden` would do in a
  # recurrent kernel (hidden, gates, hidden).
  parts: list[str | None] = [None] * len(spec.shape)
  missed: dict[str, Undivided] = {}
  for dim, (axis, size) in enumerate(zip(spec.axes, spec.shape)):
    found: list[Undivided] = []
    for mesh_axis in _wanted(axis, rules):
      if mesh_axis == NONE:
        break
      if mesh_axis in parts:
        continue
      if size % mesh.shape[mesh_axis] == 0:
        parts[dim] = mesh_axis
        break
      found.append(Undivided(
          axis=axis, size=size, mesh_axis=mesh_axis, devices=mesh.shape[mesh_axis]))
    else:
      missed |= {one.mesh_axis: one for one in found}
  _divide_storage(spec, mesh, rules, parts, missed)
  return Division(
      spec=jax.sharding.PartitionSpec(*parts),
      undivided=tuple(
          dataclasses.replace(one, other=_other(spec, parts, one.devices))
          for name, one in missed.items() if name not in parts))


def of_params(
    specs: Mapping[str, tree.Spec], mesh: Mesh, rules: Rules = ()
) -> dict[str, jax.sharding.NamedSharding]:
  """Returns the sharding of each param; `rules` come before the defaults."""
  return {name: jax.sharding.NamedSharding(mesh, divide(spec, mesh, rules).spec)
          for name, spec in specs.items()}


def undivided(
    specs: Mapping[str, tree.Spec], mesh: Mesh, rules: Rules = ()
) -> dict[str, tuple[Undivided, ...]]:
  """Returns the leaves that stay whole along a mesh axis which should divide them."""
  found = {name: divide(spec, mesh, rules).undivided for name, spec in specs.items()}
  return {name: why for name, why in found.items() if why}


def axes_of(
    sharding: jax.sharding.NamedSharding, ndim: int) -> list[tuple[str, ...]]:
  """Returns the mesh axes that divide each of `ndim` dimensions."""
  parts = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
  return [() if part is None else (part,) if isinstance(part, str) else tuple(part)
          for part in parts]


def check_rules(rules: Rules, specs: Mapping[str, tree.Spec]) -> None:
  """Checks that some leaf carries the logical axis of each rule.

  Raises:
    errors.UserError: If none does.
  """
  known = {axis for spec in specs.values() for axis in spec.axes}
  for axis, _ in rules:
    if axis not in known:
      near = difflib.get_close_matches(axis, known, n=2)
      raise errors.UserError(
          f"parallel.rules: no leaf carries axis `{axis}`. " + (
              f"Nearest: {', '.join(near)}." if near
              else f"There are {', '.join(sorted(known))}."))


def check_rows(rows: int, devices: int) -> None:
  """Checks that a number of devices divides the rows of a micro-batch.

  Raises:
    errors.UserError: If it does not.
  """
  if rows % devices:
    raise errors.UserError(
        f"train.batch_size / optim.accumulate is {rows}, and the batch is divided"
        f" over {devices} devices: make it a multiple of {devices}.")


def whole_in_step(
    shardings: Mapping[str, jax.sharding.NamedSharding]
) -> dict[str, jax.sharding.NamedSharding]:
  """Returns how params are divided while a step computes: over `tensor` alone.

  What the other mesh axes divide for storage is put together before it is used. Left to
  itself, XLA may gather the activations of all rows on each device instead.
  """
  return {name: jax.sharding.NamedSharding(
              s.mesh, jax.sharding.PartitionSpec(
                  *(part if part == "tensor" else None for part in s.spec)))
          for name, s in shardings.items()}


def of_state(
    state: Any, params: Mapping[str, jax.sharding.Sharding],
    specs: Mapping[str, tree.Spec],
) -> Any:
  """Returns shardings for a tree built over flat params, such as optimizer state.

  Moments live where their param lives; everything else is whole on every device.

  Args:
    state: Arrays or shapes, in any pytree that holds dicts keyed by param names.
    params: Sharding of each param.
    specs: Spec of each param.
  """
  first = next(iter(params.values()))
  assert isinstance(first, jax.sharding.NamedSharding), first
  mesh = first.mesh
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def place(path: tuple[Any, ...], leaf: Any) -> jax.sharding.Sharding:
    # A state may keep a scalar under a param's name; only equal shapes are moments.
    for key in reversed(path):
      name = getattr(key, "key", None)
      if name in params and specs[name].shape == leaf.shape:
        return params[name]
    return whole

  return jax.tree_util.tree_map_with_path(place, state)


def of_batch(mesh: Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of a batch: rows are divided over data and fsdp."""
  # `fsdp` divides params for storage; each of its devices computes rows of its own.
  return jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of what is whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _wanted(axis: str, rules: Rules) -> Iterable[str]:
  """Returns the mesh axes that rules give to a logical axis, in order."""
  return [mesh_axis for name, mesh_axis in (*rules, *_RULES) if name == axis]


def _divide_storage(
    spec: tree.Spec, mesh: Mesh, rules: Rules, parts: list[str | None],
    missed: dict[str, Undivided]) -> None:
  """Gives `fsdp` a dimension of the leaf if rules gave it none; changes `parts`."""
  devices = mesh.shape["fsdp"]
  free = [dim for dim, axis in enumerate(spec.axes)
          if (parts[dim] is None or mesh.shape[parts[dim]] == 1)
          and NONE not in _wanted(axis, rules)]
  if devices == 1 or "fsdp" in parts or not free:
    return
  free.sort(key=lambda dim: -spec.shape[dim])
  for dim in free:
    if spec.shape[dim] % devices == 0:
      parts[dim] = "fsdp"
      return
  missed.setdefault("fsdp", Undivided(
      axis=spec.axes[free[0]], size=spec.shape[free[0]], mesh_axis="fsdp",
      devices=devices))


# `embed` is not proposed: all leaves carry it, and the stream between blocks too. What
# `fsdp` divides for storage alone is free, because it can take another dimension.
def _other(spec: tree.Spec, parts: Sequence[str | None], devices: int) -> str:
  """Returns an axis of a leaf that a number of devices divides, or an empty text."""
  return next((
      axis for axis, size, part in zip(spec.axes, spec.shape, parts)
      if part in (None, "fsdp") and axis != "embed" and size % devices == 0), "")


def _largest_divisor(number: int, most: int) -> int:
  """Returns the largest divisor of a number that is at most `most`."""
  return next(k for k in range(min(number, most), 0, -1) if number % k == 0)
