"""The table of what a run takes of each of its devices."""

from collections.abc import Iterator, Mapping
import math

from etils import epath

from transfer_gen import sharding
from transfer_gen import tree
from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import device_plan
from transfer_gen.transfer import columns

_MEMORY = {
    "params": "params", "optimizer": "optimizer state",
    "averages": "averages of params",
    "gathered": "params put together for a step", "gradients": "gradients",
    "activations": "activations, estimated", "total": "in all"}


def write(assembled: assembled_lib.Assembled, workdir: epath.PathLike) -> list[str]:
  """Writes devices.json, if there is something to plan, and returns the table.

  Raises:
    errors.UserError: If the run does not fit its devices.
  """
  plan = device_plan.make(assembled)
  if plan is None:
    return []
  whole.write_json(epath.Path(workdir) / device_plan.FILE, plan.to_json())
  return lines(plan)


def lines(plan: device_plan.DevicePlan) -> list[str]:
  """Returns the lines of the table."""
  taken, count = plan.taken, plan.sizes[0] * plan.sizes[1] * plan.sizes[2]
  parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
  memory = [(text, device_plan.in_words(getattr(taken, name)))
            for name, text in _MEMORY.items() if getattr(taken, name)]
  sent = [(name, device_plan.in_words(size))
          for name, size in taken.sent.items() if size]
  return [
      f"{count} devices as " + " x ".join(
          f"{name}={size}" for name, size in zip(sharding.AXES, plan.sizes))
      + f", batches of {plan.rows} rows{parts}.",
      *columns.aligned([
          ("memory of each device", ""), *memory,
          ("sent by each device in a step", ""), *(sent or [("nothing", "")])]),
      *_limits(plan), *_undivided(plan.undivided)]


def _limits(plan: device_plan.DevicePlan) -> Iterator[str]:
  if plan.memory and plan.taken.total > plan.memory:
    yield from columns.wrap(
        f"A device has {device_plan.in_words(plan.memory)}: this fits only if XLA needs"
        f" less for activations than estimated. It may need 1/{device_plan.SPREAD} of"
        " that.")


def _undivided(found: Mapping[str, tuple[sharding.Undivided, ...]]) -> Iterator[str]:
  """Yields a line for each kind of leaf that a mesh axis does not divide."""
  alike: dict[sharding.Undivided, list[str]] = {}
  for name, why in found.items():
    for one in why:
      alike.setdefault(one, []).append(name)
  for one, names in alike.items():
    common = math.gcd(one.size, one.devices)
    larger = one.size // one.devices * one.devices + one.devices
    rule = (f" So would parallel.rules=(({one.other!r}, {one.mesh_axis!r}),)."
            if one.other else "")
    yield from columns.wrap(
        f"Whole along {one.mesh_axis}: {', '.join(tree.fold(names))}. {one.axis} is"
        f" {one.size}, no multiple of {one.devices}; {one.axis} of {larger} or"
        f" parallel.{one.mesh_axis}={common} would fit.{rule}")
