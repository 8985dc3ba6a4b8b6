"""Runs the pure training step on one device, on a mesh, or under pmap."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, TypeVar

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import global_arrays
from transfer_gen import sharding
from transfer_gen import tree
from transfer_gen.train import step as step_lib

_Batch = Mapping[str, np.ndarray]
_T = TypeVar("_T")
_AXIS = "devices"  # The name of the pmap axis.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
  """How the arrays of a run are placed on devices; all that the loop knows of them.

  Attributes:
    shardings: Sharding of each param outside the step (checkpoints, evaluation).
    place: Converts a state as checkpoints hold it to the state that `step` takes.
    fetch: Inverts `place`.
    rows: From B to the rows of a batch that the devices of this process compute, as an
      index of it.
    put: Converts these rows of a batch on the host to the batch that `step` takes.
    step: Takes one training step, given a state, a batch, the run's key and its
      learning rate, f32[] (None for the optimizer's own). It donates the state. Key
      and rate are arguments and no constants of the program, so that runs with others
      take their steps by the same compiled program.
  """
  shardings: Mapping[str, jax.sharding.Sharding]
  place: Callable[[step_lib.TrainState], step_lib.TrainState]
  fetch: Callable[[step_lib.TrainState], step_lib.TrainState]
  put: Callable[[_Batch], Any]
  step: Callable[
      [step_lib.TrainState, Any, jax.Array, jax.typing.ArrayLike | None],
      tuple[step_lib.TrainState, Any]]
  rows: Callable[[int], Any] = lambda batch_size: slice(None)

  def put_whole(self, batch: _Batch) -> Any:
    """Puts a batch of which this process has the rows of all."""
    return self.put({name: x[self.rows(len(x))] for name, x in batch.items()})

  def abstract(self, state: Any, specs: Mapping[str, tree.Spec]) -> Any:
    """Returns the shapes and shardings that restoring a checkpoint needs.

    Args:
      state: A state, or a part of one; only its shapes are read.
      specs: Specs of the params, by name.
    """
    places = sharding.of_state(state, self.shardings, specs)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state, places)


def check(config: config_lib.Parallel) -> None:
  """Checks that the fields go together, whatever the devices are.

  Raises:
    errors.UserError: If they do not.
  """
  if config.mode == "pmap" and (
      config.fsdp != 1 or config.tensor != 1 or config.rules):
    raise errors.UserError(
        "parallel.mode=pmap keeps every param whole: set parallel.fsdp and"
        " parallel.tensor to 1 and parallel.rules to (), or parallel.mode=jit.")


def make_runner(
    config: config_lib.Parallel,
    specs: Mapping[str, tree.Spec],
    batch_size: int,
    accumulate: int,
    **step_arguments: Any,
) -> Runner:
  """Builds the runner that `config.mode` names.

  Args:
    config: How devices share the work.
    specs: Specs of the params, by name.
    batch_size: B, over all devices.
    accumulate: Number of micro-batches per step.
    **step_arguments: Passed on to `step.train_step`.

  Raises:
    errors.UserError: If the number of devices does not fit the mode or does not divide
      the batch.
  """
  step = functools.partial(
      step_lib.train_step, accumulate=accumulate, **step_arguments)
  check(config)
  if config.devices not in (0, jax.device_count()):
    raise errors.UserError(
        f"parallel.devices is {config.devices}, and there are {jax.device_count()}"
        " devices. Set it to 0, or train where there are as many.")
  make = _pmap if config.mode == "pmap" else _jit
  return make(config, specs, step, batch_size // accumulate)


def on_mesh(
    step: functools.partial, specs: Mapping[str, tree.Spec],
    params: Mapping[str, jax.sharding.NamedSharding]) -> Callable[..., Any]:
  """Returns a step for `jit`, with constraints that say where it computes what.

  Args:
    step: `step.train_step` with all arguments but state, batch, key and lr.
    specs: Specs of the params, by name.
    params: How params are divided between steps.
  """
  mesh = next(iter(params.values())).mesh
  if mesh.size > 1:  # On one device there is nothing to say.
    step = functools.partial(step, nll_fn=_placed(
        step.keywords["nll_fn"], params, sharding.of_batch(mesh)))
  return functools.partial(_keep, params, specs, step)


def _jit(config, specs, step, rows) -> Runner:
  mesh = sharding.make_mesh(config.data, config.fsdp, config.tensor)
  # Devices along `tensor` see the same rows; only the two others divide the batch.
  sharding.check_rows(rows, mesh.shape["data"] * mesh.shape["fsdp"])
  sharding.check_rules(config.rules, specs)
  params = sharding.of_params(specs, mesh, config.rules)
  devices, batch = [*mesh.devices.flat], sharding.of_batch(mesh)

  # Jitted once per set of groups, and not once per step: `jax.jit` of a new closure
  # would trace and compile anew.
  @functools.cache
  def compiled(groups):
    # `groups` is only the cache's key. When a group starts to learn, the state has
    # another structure and other shardings, and the step needs another program.
    del groups
    return jax.jit(on_mesh(step, specs, params), donate_argnums=0)

  return Runner(
      shardings=params,
      place=lambda state: global_arrays.place(
          state, sharding.of_state(state, params, specs)),
      fetch=lambda state: state,
      put=lambda host: global_arrays.put(host, batch),
      rows=functools.partial(global_arrays.rows, batch),
      step=lambda state, data, key, lr=None: _waited(devices, compiled(
          frozenset(state.opt_state))(state, data, key, lr)))


def _placed(
    nll_fn: step_lib.NllFn, params: Mapping[str, jax.sharding.NamedSharding],
    rows: jax.sharding.NamedSharding) -> step_lib.NllFn:
  """Returns a loss that computes rows of its own on each device along data and fsdp.

  Args:
    nll_fn: The loss.
    params: How params are divided between steps.
    rows: How a batch is divided.
  """
  together = sharding.whole_in_step(params)

  def placed(learning, batch, key):
    # Micro-batches are parts of a batch that each lie on some of the devices.
    divided = {name: jax.lax.with_sharding_constraint(x, rows)
               for name, x in batch.items()}
    return nll_fn({name: _together(x, together[name], params[name])
                   for name, x in learning.items()}, divided, key)
  return placed


# The constraint's own gradient would be constrained as the whole param is. So each
# device would hold all gradients, and the norm over them would be computed on each.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _together(x, whole, stored):
  """Returns a param as a step uses it; its gradient is divided as it is stored."""
  del stored
  return jax.lax.with_sharding_constraint(x, whole)


_together.defvjp(
    lambda x, whole, stored: (_together(x, whole, stored), None),
    # First whole, or XLA looks for a way to make the parts: each device would add up
    # its columns of an embedding for the tokens of all rows.
    lambda whole, stored, _, g: (jax.lax.with_sharding_constraint(
        jax.lax.with_sharding_constraint(g, whole), stored),))


def _keep(params, specs, step, state, batch, key, lr=None):
  """Takes a step and constrains the new state to the shardings of the old one.

  Without the constraint XLA may choose others, and the next call would compile again.
  """
  state, metrics = step(state, batch, key=key, lr=lr)
  places = sharding.of_state(state, params, specs)
  return jax.lax.with_sharding_constraint(state, places), metrics


def _pmap(config, specs, step, rows) -> Runner:
  count = jax.local_device_count()
  if config.data not in (0, count):
    raise errors.UserError(
        f"parallel.data is {config.data}, and pmap uses all {count} devices. Set it to"
        " 0.")
  sharding.check_rows(rows, count)
  # A mesh of one device: restoring a checkpoint needs shardings that have a mesh.
  device = sharding.replicated(jax.sharding.Mesh(jax.local_devices()[:1], ("data",)))
  # Placed as `pmap` wants its arguments: it refuses arrays that lie on one device.
  each = jax.sharding.NamedSharding(
      jax.sharding.Mesh(jax.local_devices(), (_AXIS,)),
      jax.sharding.PartitionSpec(_AXIS))
  # The key is the same on all devices: the step folds in each one's own index.
  mapped = jax.pmap(
      lambda state, batch, key, lr: step(
          state, batch, key=key, lr=lr, axis_name=_AXIS),
      axis_name=_AXIS, in_axes=(0, 0, None, None), donate_argnums=0)

  def put(host):
    return {k: v.reshape(count, v.shape[0] // count, *v.shape[1:])
            for k, v in host.items()}

  def one_step(state, batch, key, lr=None):
    state, metrics = _waited(jax.local_devices(), mapped(state, batch, key, lr))
    # Metrics are summed over devices in the step: all copies are the same.
    return state, jax.tree.map(_first, metrics)

  return Runner(
      shardings=dict.fromkeys(specs, device),
      place=lambda state: jax.tree.map(lambda x: jax.device_put(
          jnp.broadcast_to(x[None], (count, *x.shape)), each), state),
      # All devices hold equal states, because gradients are summed before the update.
      fetch=lambda state: jax.tree.map(_first, state),
      put=put, step=one_step)


# XLA's CPU backend runs all devices on one pool of threads. Where several steps are in
# flight, the later ones can take the threads that the devices of an earlier one need to
# meet, and after 40 seconds XLA ends the process.
def _waited(devices: Sequence[jax.Device], outputs: _T) -> _T:
  """Returns the outputs of a step; on several CPU devices, once they are there."""
  if len(devices) > 1 and devices[0].platform == "cpu":
    return jax.block_until_ready(outputs)
  return outputs


# x[0] would be a program on all devices, for each shape.
def _first(x: jax.Array) -> jax.Array:
  """Returns the copy that the first device holds of f[devices, ...]."""
  return x.addressable_shards[0].data[0]
