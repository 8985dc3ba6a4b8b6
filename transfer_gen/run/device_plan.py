"""What a run takes of each of its devices, found before anything is trained."""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
from typing import Any

import jax
from jax import numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sharding
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import footprint

FILE = "devices.json"  # In a workdir.
# The estimate of activations is up to this many times what XLA needs, which computes
# some of them again and lets others share memory.
SPREAD = 3
_MOST = 2**16  # No more devices are proposed than this.
_Sizes = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DevicePlan:
  """How a run is divided over its devices, and what a step takes of each.

  Attributes:
    sizes: Sizes of the axes data, fsdp and tensor.
    rows: Rows of a batch, over all devices.
    accumulate: Number of micro-batches.
    taken: Bytes of memory of each device, and bytes that it sends.
    undivided: The leaves that stay whole along a mesh axis, and why.
    memory: Bytes of memory of a device; 0 if unknown.
  """
  sizes: _Sizes
  rows: int
  accumulate: int
  taken: footprint.Footprint
  undivided: Mapping[str, tuple[sharding.Undivided, ...]]
  memory: int

  def to_json(self) -> dict[str, Any]:
    """Returns the plan as JSON types."""
    found = self.taken
    return {
        "mesh": dict(zip(sharding.AXES, self.sizes)), "batch_size": self.rows,
        "accumulate": self.accumulate, "memory": self.memory or None,
        "bytes": {name: getattr(found, name) for name in (
            "params", "optimizer", "averages", "gathered", "gradients", "activations",
            "total")},
        "sent": {name: size for name, size in found.sent.items() if size},
        "undivided": {name: [dataclasses.asdict(one) for one in why]
                      for name, why in self.undivided.items()}}


# A plan for the CPUs of one machine would say nothing, and tracing takes a moment.
def make(assembled: assembled_lib.Assembled) -> DevicePlan | None:
  """Plans the devices of a run; None on CPUs, unless a field of `parallel` is set.

  Raises:
    errors.UserError: If the mesh does not fit the devices or the batch, a rule names
      an axis that no leaf carries, or a device cannot hold the run; it says what would
      fit.
  """
  run = assembled.run
  asked = run.parallel
  if asked == config_lib.Parallel() and jax.default_backend() == "cpu":
    return None
  devices = asked.devices or jax.device_count()
  sizes = sharding.mesh_sizes(asked.data, asked.fsdp, asked.tensor, devices)
  sharding.check_rules(asked.rules, assembled.specs)
  work = _trace(assembled)
  accumulate, memory = run.optim.accumulate, _memory(asked)
  sharding.check_rows(work.rows // accumulate, sizes[0] * sizes[1])
  found = footprint.on_mesh(work, sizes, asked.rules, accumulate)
  if memory and _least(found) > memory:
    raise errors.UserError(
        f"A device has {in_words(memory)}, and the run needs at least"
        f" {in_words(_least(found))} of each of {devices}:"
        f" {in_words(found.params)} for params, {in_words(found.optimizer)} for"
        f" optimizer state, {in_words(found.gathered + found.gradients)} for gathered"
        f" params and gradients, the rest for activations."
        f" {_remedy(work, sizes, asked.rules, accumulate, memory)}")
  return DevicePlan(
      sizes=sizes, rows=work.rows, accumulate=accumulate, taken=found,
      memory=memory, undivided=sharding.undivided(
          assembled.specs, sharding.abstract_mesh(sizes), asked.rules))


def in_words(size: float) -> str:
  """Returns a number of bytes as people read it.

  >>> in_words(1_280_000_000), in_words(700)
  ('1.28 GB', '700 B')
  """
  for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if size >= scale:
      return f"{size / scale:.3g} {unit}"
  return f"{size:.0f} B"


# The largest of the batches that come first stands for all.
def _trace(assembled: assembled_lib.Assembled) -> footprint.Work:
  """Traces the last step of a run, in which all groups learn that ever do."""
  run = assembled.run
  batches: Any = assembled.data.train_batches(run.train.rows, run.seed)
  batch = max(itertools.islice(batches, 2 * len(assembled.data.lengths)),
              key=lambda batch: batch["inputs"].size)
  # Without dropout, whose masks are small, and without what a teacher computes.
  return footprint.trace(
      assembled.specs, assembled.optimizer, combined.scoring(assembled.model), batch,
      run.train.steps - 1, jnp.dtype(run.model.dtype).itemsize,
      assembled.teacher.source.specs if assembled.teacher is not None else {},
      averaged=run.train.ema > 0)


def _memory(asked: config_lib.Parallel) -> int:
  """Returns the memory of a device in bytes, or 0 if it does not say."""
  if asked.memory_gb or asked.devices not in (0, jax.device_count()):
    return round(asked.memory_gb * 1e9)
  return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)


def _least(taken: footprint.Footprint) -> int:
  """Returns the bytes that a step needs even where the estimate is too high."""
  return taken.total - taken.activations + taken.activations // SPREAD


def _remedy(
    work: footprint.Work, sizes: _Sizes, rules: sharding.Rules, accumulate: int,
    memory: int) -> str:
  """Returns a sentence that says what would fit."""
  def fits(sizes, accumulate):
    return work.rows // accumulate % (sizes[0] * sizes[1]) == 0 and footprint.on_mesh(
        work, sizes, rules, accumulate).total <= memory

  devices = sizes[0] * sizes[1] * sizes[2]
  parts = [part for part in range(accumulate, work.rows + 1) if work.rows % part == 0]
  for part in parts:
    if fits(sizes, part):
      return f"This would fit: optim.accumulate={part}."
  for part in parts:
    for other in _meshes(devices, sizes):
      if fits(other, part):
        return (f"This would fit: {_fields(other)}" + (
            "." if part == accumulate else f", with optim.accumulate={part}."))
  while (devices := 2 * devices) <= _MOST:
    for other in _meshes(devices, sizes):
      if fits(other, accumulate):
        return f"This would fit: {devices} devices, with {_fields(other)}."
  return ("No division over devices that was tried fits. Let fewer leaves learn, such"
          " as by strategy.name=lora, or take shorter rows or a smaller model.")


def _meshes(devices: int, sizes: _Sizes) -> Iterator[_Sizes]:
  """Yields meshes of a number of devices, those that send least first."""
  divisors = [k for k in range(1, devices + 1) if devices % k == 0]
  for tensor in divisors:
    for fsdp in divisors:
      if devices % (tensor * fsdp) == 0 and tensor >= sizes[2]:
        yield devices // tensor // fsdp, fsdp, tensor


def _fields(sizes: _Sizes) -> str:
  return ", ".join(
      f"parallel.{name}={size}" for name, size in zip(sharding.AXES, sizes))
