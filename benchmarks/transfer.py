"""Measures transfers at scale: a plan for 7 billion params, a restore, and growth.

Run: python -m benchmarks.transfer (about 3 minutes on 2 cores, 5 GB of memory and
1.5 GB of disk). Each measurement has a process of its own. The last line is JSON:

  plan_7b_seconds, plan_7b_mb: time and memory to resolve and audit a plan from a source
      of 48 layers in which every leaf is mapped along some axis, without the imports.
  restore_over_orbax: time to restore 500 MB, renamed and mapped along `vocab` and
      `mlp`, over the time in which Orbax reads the same checkpoint unchanged.
  restore_peak_over_target: peak memory of that restore, less one leaf, over the bytes
      of the target.
  read_share: bytes read for a tenth of the leaves, over the bytes of the checkpoint.
  grow_max_relative_difference: max|a - b| / max|a| of the logits of a 12-layer Decoder
      before and after it grows from width 768 to 1536.
  grow_seconds: time of that growth.
"""

import json
import pathlib
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import timing
from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry
from transfer_gen.transfer import audit
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure
from transfer_gen.transfer import table

_ALL = (plan_lib.Group(name="all", params=".*"),)
_MEDIUM = config_lib.Decoder(  # 125 million params, 500 MB.
    vocab_size=20_480, num_layers=20, width=640, num_heads=10, mlp_width=3072,
    max_length=256)
_GROWN = config_lib.Decoder(  # Which `grown` makes twice as wide.
    vocab_size=8192, num_layers=12, width=768, num_heads=12, max_length=128)
_ROUNDS = 5


def plan_7b() -> dict[str, float]:
  """Measures resolving and auditing a plan from 7 to 13 billion params."""
  base, start = timing.memory("VmRSS"), time.perf_counter()
  old = config_lib.Decoder(
      vocab_size=50_304, num_layers=48, width=3456, num_heads=27, max_length=2048)
  new, plan = structure.grow(
      old, mlp_width=16_384, num_heads=54, num_layers=60,
      axes=(plan_lib.On(axis="position", map=axes.Extend()),))
  new.max_length = 4096
  source, target = (registry.specs(registry.build(model)) for model in (old, new))
  rows = resolve.resolve(
      plan, {"": source}, target,
      constants={"": registry.constants(old), "target": registry.constants(new)})
  summary = audit.summarize(plan, rows, {"": source})
  table.full(summary), table.folded(summary, True), json.dumps(audit.to_json(summary))
  seconds = time.perf_counter() - start
  params = sum(spec.size for spec in source.values())
  print(f"plan: {len(target)} leaves from a source of {params:,} params", flush=True)
  return {"plan_7b_seconds": round(seconds, 3),
          "plan_7b_mb": round((timing.memory("VmHWM") - base) / 2**20, 1)}


def restored(folder: str) -> dict[str, float]:
  """Compares restoring renamed and mapped leaves with Orbax's own reading."""
  stored, rows, fresh = _renamed(folder)
  target = sum(row.spec.nbytes for row in rows)
  reading = lambda: jax.block_until_ready(restore.restore(rows, {"": stored}, fresh))
  found = timing.in_turns(reading, lambda: _orbax(stored), _ROUNDS)
  print(f"restore: {target / 2**20:.0f} MB in {found.ours:.2f} s, Orbax"
        f" {found.peer:.2f} s", flush=True)
  return {"restore_over_orbax": round(found.ratio, 3)}


def restored_peak(folder: str) -> dict[str, float]:
  """Measures the peak memory of the same restore."""
  stored, rows, fresh = _renamed(folder)
  base = timing.memory("VmRSS")
  params = jax.block_until_ready(restore.restore(rows, {"": stored}, fresh))
  peak = timing.memory("VmHWM") - base
  target = sum(value.nbytes for value in params.values())
  # While a leaf is mapped, its source is held as well, which is unavoidable.
  leaf = max(value.nbytes for value in params.values())
  return {"restore_peak_over_target": round((peak - leaf) / target, 3)}


def read_share(folder: str) -> dict[str, float]:
  """Measures the bytes read for a tenth of the leaves: two layers of twenty."""
  stored = sources.open(folder)
  names = sorted(stored.specs)
  some = [name for name in names if name.startswith(("block_7/", "block_12/"))]
  before = _bytes_read()
  read = sum(value.nbytes for _, value in stored.read(some))
  total = sum(file.stat().st_size for file in pathlib.Path(stored.path).rglob("*")
              if file.is_file())
  print(f"read: {len(some)} leaves of {len(names)}, {read / 2**20:.1f} MB of"
        f" {total / 2**20:.0f} MB", flush=True)
  return {"read_share": round((_bytes_read() - before) / total, 4)}


def grown() -> dict[str, float]:
  """Doubles the width of a 12-layer Decoder and compares the logits."""
  old = _GROWN
  module = registry.build(old)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  source = sources.Memory(registry.specs(module), {
      name: value + 0.02 * jax.random.normal(jax.random.key(i), value.shape)
      for i, (name, value) in enumerate(sorted(params.items()))})
  # The noise above leaves no bias at zero, where a mistake with it would not show.
  start = time.perf_counter()
  new, plan = structure.grow(old, width=2 * old.width, num_heads=2 * old.num_heads,
                             mlp_width=8 * old.width)
  target = registry.build(new)
  rows = resolve.resolve(
      plan, {"": source.specs}, registry.specs(target),
      constants={"": registry.constants(old), "target": registry.constants(new)})
  bigger = jax.block_until_ready(restore.restore(
      rows, {"": source}, registry.fresh(target, jax.random.key(1))))
  seconds = time.perf_counter() - start
  inputs = jax.random.randint(jax.random.key(2), (2, 64), 0, old.vocab_size)
  before, after = (
      np.asarray(jax.jit(model.apply)({"params": tree.unflatten(values)}, inputs))
      for model, values in ((module, source.arrays), (target, bigger)))
  return {"grow_max_relative_difference": float(
              np.abs(before - after).max() / np.abs(before).max()),
          "grow_seconds": round(seconds, 2)}


def main() -> None:
  """Runs all measurements and prints their results."""
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    timing.alone(_write, folder)
    for measure, *given in ((plan_7b,), (restored, folder), (restored_peak, folder),
                            (read_share, folder), (grown,)):
      results |= timing.alone(measure, *given)
  print(json.dumps(results))


def _write(folder: str) -> None:
  """Writes a checkpoint of the medium model with other leaf names."""
  module = registry.build(_MEDIUM)
  theirs = {_their_name(name): spec for name, spec in registry.specs(module).items()}
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save_best(
      1, {_their_name(name): value for name, value in params.items()},
      {"axes": checkpoint.axes_facts(theirs)})
  checkpoints.close()


def _their_name(name: str) -> str:
  return name.replace("layer_", "block_").replace("mlp/", "feed_forward/")


def _renamed(folder: str):
  """Returns the checkpoint, rows that rename and map its leaves, and an initializer."""
  stored = sources.open(folder)
  target = registry.build(config_lib.Decoder(**vars(_MEDIUM)))
  rng = np.random.default_rng(0)
  plan = plan_lib.TransferPlan(
      rules=(
          plan_lib.Rule(target=r"layer_(\d+)/mlp/(.*)",
                        source=r"block_\1/feed_forward/\2"),
          plan_lib.Rule(target=r"layer_(\d+)/(.*)", source=r"block_\1/\2"),
          plan_lib.Rule(target="(.*)", source=r"\1")),
      axes=tuple(plan_lib.On(axis=axis, map=axes.Select(index=rng.permutation(size)))
                 for axis, size in (("vocab", _MEDIUM.vocab_size),
                                    ("mlp", _MEDIUM.mlp_width))),
      groups=_ALL)
  rows = resolve.resolve(plan, {"": stored.specs}, registry.specs(target))
  return stored, rows, registry.fresh(target, jax.random.key(0))


def _orbax(stored: checkpoint.Stored) -> None:
  """Reads all params with a single call of Orbax."""
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  item = tree.unflatten({
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=device)
      for name, spec in stored.specs.items()})
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    jax.block_until_ready(reader.restore(
        stored.path / "params", args=ocp.args.PyTreeRestore(
            item=item,
            restore_args=ocp.checkpoint_utils.construct_restore_args(item))))


def _bytes_read() -> int:
  return int(pathlib.Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
  main()
