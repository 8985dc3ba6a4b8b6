"""Meshes of devices, and where each param lives on them by its logical axes."""

from collections.abc import Mapping
from typing import Any

import jax

from transfer_gen import errors
from transfer_gen import tree

_AXES = ("data", "fsdp", "tensor")
# Mesh axis by logical axis. `gates`, `kv`, `latent` and `position` are never divided.
# `tensor` divides what a block produces and contracts again by itself (Megatron-LM,
# Shoeybi et al., 2019); `fsdp` divides `embed`, which nearly every large leaf carries.
# Flax's own logical_to_mesh_axes raises if an axis name occurs twice, as `hidden` does
# in a recurrent kernel, so the names are mapped here.
_RULES = {
    "vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor",
    "hidden": "tensor", "memory": "tensor", "embed": "fsdp",
}


def make_mesh(data: int = 0, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
  """Makes a mesh with axes data, fsdp and tensor over all devices.

  Args:
    data: Number of devices that divide the batch; 0 means all that `fsdp` and `tensor`
      leave.
    fsdp: Number of devices that divide both the batch and each param along `embed`.
    tensor: Number of devices that divide heads, hidden units and vocabulary.

  Raises:
    errors.UserError: If the product is not the number of devices.
  """
  count = jax.device_count()
  # At least 1, so that the message below does not say that the product is 0.
  data = data or max(count // (fsdp * tensor), 1)
  if data * fsdp * tensor != count:
    raise errors.UserError(
        f"parallel: data={data} x fsdp={fsdp} x tensor={tensor} is"
        f" {data * fsdp * tensor}, and there are {count} devices.")
  # The default of make_mesh, Explicit axes, refuses to contract a sharded dimension.
  return jax.make_mesh(
      (data, fsdp, tensor), _AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * len(_AXES))


def fitting_mesh(data: int = 0, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
  """Returns `make_mesh` of the same, or all devices along `data` if it does not fit.

  It is for work whose result does not depend on the mesh, such as generation with a run
  that was trained on other devices.
  """
  try:
    return make_mesh(data, fsdp, tensor)
  except errors.UserError:
    return make_mesh()


def partition_spec(
    spec: tree.Spec, mesh: jax.sharding.Mesh
) -> jax.sharding.PartitionSpec:
  """Returns how a leaf is divided; a mesh axis divides its first dimension only.

  A dimension stays whole if its size is not a multiple of the mesh axis.
  """
  # JAX refuses a PartitionSpec that names a mesh axis twice, as `hidden` would do in a
  # recurrent kernel (hidden, gates, hidden).
  taken: set[str | None] = set()
  parts: list[str | None] = []
  for axis, size in zip(spec.axes, spec.shape):
    part = _RULES.get(axis)
    if part in taken or part is None or size % mesh.shape[part]:
      part = None
    taken.add(part)
    parts.append(part)
  return jax.sharding.PartitionSpec(*parts)


def of_params(
    specs: Mapping[str, tree.Spec], mesh: jax.sharding.Mesh
) -> dict[str, jax.sharding.NamedSharding]:
  """Returns the sharding of each param."""
  return {name: jax.sharding.NamedSharding(mesh, partition_spec(spec, mesh))
          for name, spec in specs.items()}


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


def of_batch(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of a batch: rows are divided over data and fsdp."""
  # `fsdp` divides params for storage; each of its devices computes rows of its own.
  return jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of what is whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
