"""Meshes, and where each param lives on them, from its logical axes."""

from collections.abc import Mapping

import jax

from transfer_gen import errors
from transfer_gen import tree

_AXES = ("data", "fsdp", "tensor")
# Logical axis -> mesh axis. `gates`, `kv` and `position` are never divided.
_RULES = {
    "vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor",
    "hidden": "tensor", "embed": "fsdp",
}


def make_mesh(data: int = 0, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
  """A mesh with axes data, fsdp and tensor over all devices.

  Args:
    data: Devices along the batch. 0: those that `fsdp` and `tensor` leave.
    fsdp: Devices that divide both the batch and each param along `embed`.
    tensor: Devices that divide heads, hidden units and vocabulary.

  Raises:
    errors.UserError: If the product is not the number of devices.
  """
  count = jax.device_count()
  if min(fsdp, tensor) < 1 or data < 0:
    raise errors.UserError(
        f"parallel: data={data} fsdp={fsdp} tensor={tensor}; fsdp and tensor must be"
        " at least 1, data at least 0.")
  data = data or max(count // (fsdp * tensor), 1)
  if data * fsdp * tensor != count:
    raise errors.UserError(
        f"parallel: data={data} x fsdp={fsdp} x tensor={tensor} is"
        f" {data * fsdp * tensor}, and there are {count} devices.")
  return jax.make_mesh(
      (data, fsdp, tensor), _AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * len(_AXES))


def partition_spec(
    spec: tree.Spec, mesh: jax.sharding.Mesh
) -> jax.sharding.PartitionSpec:
  """Where a leaf is divided: the first dimension that asks for a mesh axis gets it.

  A dimension that the mesh axis does not divide evenly stays whole.
  """
  taken, parts = set(), []
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
  """Each leaf's sharding."""
  return {name: jax.sharding.NamedSharding(mesh, partition_spec(spec, mesh))
          for name, spec in specs.items()}


def of_state(state, params: Mapping[str, jax.sharding.NamedSharding], specs):
  """Shardings of any tree built over flat params: moments live beside their param.

  Args:
    state: Arrays or shapes, e.g. an optimiser state over flat params.
    params: Sharding of each param.
    specs: Spec of each param.
  """
  whole = replicated(next(iter(params.values())).mesh)

  def place(path, leaf):
    for key in reversed(path):
      name = getattr(key, "key", None)
      if name in params and specs[name].shape == leaf.shape:
        return params[name]
    return whole

  return jax.tree_util.tree_map_with_path(place, state)


def of_batch(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Rows divided over data and fsdp."""
  return jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
