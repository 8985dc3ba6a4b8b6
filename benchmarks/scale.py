"""Measures what grows with devices, params and data.

Run: python -m benchmarks.scale [--smallest] [PART ...], with the parts `meshes` (3
minutes on 2 cores), `plan`, `read` (a minute) and `data` (half an hour); by default
all. Each mesh has a process of its own with as many simulated devices; programs of
steps are compiled and never run. The last line is JSON; with `--smallest`, meshes have
8 devices, two processes read, and there is little text:

  data_sent_over_paper, fsdp_sent_over_paper, tensor_sent_over_paper: bytes that a
      device sends in a step by the compiled program, over the count of
      `train.footprint`; of several numbers of devices, the one that is farthest from 1.
  data_flops_scaling, data_bytes_scaling, and the same of fsdp and tensor: FLOPs and
      bytes that one device computes and reads or writes on the fewest devices, over
      those on the most. Rows grow with `data` and `fsdp`; heads, hidden units and
      vocabulary with `tensor`.
  temporary_over_xla: the estimate of the memory that a step needs beside its state,
      over what XLA allocates for it; the smallest and the largest.
  plan_7b_seconds, plan_7b_mb, plan_7b_arrays: time, memory and arrays of a plan with
      shardings of a model of 7 billion params on 256 devices, without the imports.
  bytes_read: bytes that a process reads of a checkpoint of another framework, over the
      bytes of what its devices hold of it; the largest of `benchmarks.bytes_read`, for
      each case there.
  data_peak_mb, data_peak_growth_mb: peak memory of a training with its workers on 1 GB
      of text, and by how much it exceeds that on 10 MB; data_alone_growth_mb: the same
      without the workers; data_seconds: how long it took on 1 GB.
  data_tokens_per_second: 10 MB read, tokenized, laid out and read once as batches.
"""

from collections.abc import Callable, Sequence
import functools
import json
import sys
import time
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from benchmarks import bytes_read
from benchmarks import collectives
from benchmarks import large_data
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen import sharding
from transfer_gen.models import registry
from transfer_gen.train import footprint
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import audit
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

DEVICES = (8, 64, 256)
TEXTS = (10 * 2**20, 2**30)  # Bytes.
_LITTLE = (2**16, 2**18)
LENGTH = 48
_SEVEN = config_lib.Decoder(
    vocab_size=32_000, num_layers=32, width=4096, num_heads=32, mlp_width=11_008,
    activation="swiglu", norm="rms", bias=False, tied=False, max_length=2048)


def model(tensor: int) -> config_lib.Decoder:
  """Returns a small model, in which each device along `tensor` has as much to do."""
  return config_lib.Decoder(
      vocab_size=64 * tensor, num_layers=2, width=768, num_heads=tensor, head_dim=8,
      mlp_width=32 * tensor, max_length=LENGTH)


def measure(
    sizes: tuple[int, int, int], config: config_lib.Decoder | config_lib.Recurrent,
    accumulate: int = 1
) -> dict[str, Any]:
  """Compiles a step on a mesh with two rows for each device, and counts.

  Args:
    sizes: Sizes of the axes data, fsdp and tensor; their product is the number of
      devices.
    config: The model.
    accumulate: Number of micro-batches.

  Returns:
    `sent` and `paper`: bytes sent by kind, from the program and from
    `train.footprint`; `flops` and `bytes` of a device; `temporary` and `state`: memory
    by the estimate and by XLA.
  """
  mesh = sharding.make_mesh(*sizes)
  module, rows = registry.build(config), 2 * sizes[0] * sizes[1] * accumulate
  specs, nll_fn = registry.specs(module), objectives.next_token(module, False)
  optimizer = optim.build(
      config_lib.Optim(), plan_lib.SCRATCH.groups,
      resolve.resolve(plan_lib.SCRATCH, {}, specs), 100)
  where, batch = sharding.of_params(specs, mesh), _batch(rows, LENGTH)
  step = functools.partial(
      step_lib.train_step, accumulate=accumulate, nll_fn=nll_fn, optimizer=optimizer)
  state = _state(specs, optimizer)
  placed = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      (state, batch), (sharding.of_state(state, where, specs), dict.fromkeys(
          batch, sharding.of_batch(mesh))))
  compiled = jax.jit(parallel.on_mesh(step, specs, where), donate_argnums=0).lower(
      *placed, jax.eval_shape(lambda: jax.random.key(0))).compile()
  work = footprint.trace(specs, optimizer, nll_fn, batch, 99)
  expected = footprint.on_mesh(work, sizes, accumulate=accumulate)
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  return {
      "sent": collectives.sent(compiled.as_text(), mesh.size),
      "paper": {name: size for name, size in expected.sent.items() if size},
      "flops": cost["flops"], "bytes": cost["bytes accessed"],
      "temporary": (expected.temporary, memory.temp_size_in_bytes),
      "state": (expected.state, memory.argument_size_in_bytes)}


def on_devices(axis: str, devices: int) -> dict[str, Any]:
  """Measures a mesh of one axis, in a process that has no other devices yet."""
  jax.config.update("jax_num_cpu_devices", devices)
  sizes = [devices if name == axis else 1 for name in sharding.AXES]
  return measure((sizes[0], sizes[1], sizes[2]), model(max(8, sizes[2])))


def plan_7b() -> dict[str, float]:
  """Measures a plan of 7 billion params on a mesh of 256 devices."""
  base, start = timing.memory("VmRSS"), time.perf_counter()
  module = registry.build(_SEVEN)
  specs = registry.specs(module)
  rows = resolve.resolve(plan_lib.SCRATCH, {}, specs)
  audit.to_json(audit.summarize(plan_lib.SCRATCH, rows, {}))
  optimizer = optim.build(config_lib.Optim(), plan_lib.SCRATCH.groups, rows, 100)
  work = footprint.trace(
      specs, optimizer, objectives.next_token(module, False), _batch(256, 2048), 99)
  found = footprint.on_mesh(work, (4, 8, 8))
  sharding.undivided(specs, sharding.abstract_mesh((4, 8, 8)))
  seconds = time.perf_counter() - start
  print(f"plan: {sum(spec.size for spec in specs.values()):,} params on 256 devices,"
        f" {found.state / 1e9:.2f} GB of state each", flush=True)
  return {"plan_7b_seconds": round(seconds, 2),
          "plan_7b_mb": round((timing.memory("VmHWM") - base) / 2**20, 1),
          "plan_7b_arrays": len(jax.live_arrays())}


def meshes(smallest: bool) -> dict[str, Any]:
  """Measures each mesh in a process of its own."""
  devices = (8,) if smallest else DEVICES
  results: dict[str, Any] = {}
  estimates = []
  print(f"{'mesh':12} {'sent':>12} {'on paper':>12} {'ratio':>7} {'MFLOP':>9}"
        f" {'MB accessed':>12} {'temporary':>10}")
  for axis in sharding.AXES:
    found = [timing.alone(on_devices, axis, count) for count in devices]
    ratios = []
    for count, one in zip(devices, found):
      sent, paper = (sum(one[name].values()) for name in ("sent", "paper"))
      ratios.append(sent / paper)
      estimates.append(one["temporary"][0] / one["temporary"][1])
      print(f"{f'{axis} {count}':12} {sent:12,} {paper:12,} {ratios[-1]:7.3f}"
            f" {one['flops'] / 1e6:9.2f} {one['bytes'] / 1e6:12.2f}"
            f" {estimates[-1]:10.2f}", flush=True)
    results[f"{axis}_sent_over_paper"] = round(
        max(ratios, key=lambda ratio: abs(ratio - 1)), 4)
    for name in ("flops", "bytes"):
      results[f"{axis}_{name}_scaling"] = round(found[0][name] / found[-1][name], 4)
  results["temporary_over_xla"] = [round(min(estimates), 2), round(max(estimates), 2)]
  return results


def plan(smallest: bool) -> dict[str, float]:
  """Measures a large plan in a process of its own; it makes no array."""
  del smallest
  return timing.alone(plan_7b)


def read(smallest: bool) -> dict[str, Any]:
  """Measures what processes read of a checkpoint; prints a line for each case."""
  count, *sizes = (2, 1, 1, 2) if smallest else (4, 1, 2, 2)
  found = bytes_read.in_processes(count, sizes, 16 * count)
  for name, ratio in found.items():
    print(f"{name:14} read by each of {count} processes, over its shards: {ratio:.3f}",
          flush=True)
  return {"bytes_read": {case: round(max(
      ratio for name, ratio in found.items() if name.endswith(case)), 3)
                         for case in bytes_read.CASES}}


def data(smallest: bool) -> dict[str, float]:
  """Measures trainings on little and on much text."""
  return large_data.measure(_LITTLE if smallest else TEXTS)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "meshes": meshes, "plan": plan, "read": read, "data": data}


def main(words: Sequence[str]) -> None:
  """Runs the parts that are named, or all, and prints what they found."""
  found: dict[str, Any] = {}
  for name in [word for word in words if word != "--smallest"] or PARTS:
    found |= PARTS[name]("--smallest" in words)
  print(json.dumps(found))


def _state(specs, optimizer):
  def make(params):
    return step_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params=params,
        opt_state=optimizer.extend({}, params, 99))
  return jax.eval_shape(make, {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
      for name, spec in specs.items()})


def _batch(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
  return {name: jax.ShapeDtypeStruct((rows, length), dtype) for name, dtype in (
      ("inputs", np.int32), ("targets", np.int32), ("weights", np.float32))}


if __name__ == "__main__":
  main(sys.argv[1:])
