"""Counts the bytes that each of several processes reads of a checkpoint.

`benchmarks.scale` prints the result. A random model of GPT-2's form and one of Llama's
are written as safetensors and restored on meshes of processes with one simulated device
each: as they are, with rows of the vocabulary that a token map picks, grown, and with
new tokens that are drawn around the mean of all rows. Bytes are those that the system
counts for a process, in a second restore, when everything is imported and compiled.
"""

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
import socket
import subprocess
import sys
import tempfile
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import sharding
from transfer_gen import sources
from transfer_gen.export import hugging_face_folder
from transfer_gen.models import registry
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure
from transfer_gen.transfer import vocabulary

CASES = ("copied", "picked", "grown", "drawn")
_GROUPS = plan_lib.SCRATCH.groups


def models(width: int) -> dict[str, config_lib.Decoder]:
  """Returns a model of each form: GPT-2's has fused kernels, Llama's are turned."""
  sizes = dict(vocab_size=15 * width, num_layers=2, width=width, num_heads=8,
               mlp_width=4 * width, max_length=width)
  return {
      "gpt2": config_lib.Decoder(**sizes),
      "llama": config_lib.Decoder(
          **sizes, activation="swiglu", norm="rms", bias=False, tied=False,
          position="rotary")}


def write(folder: pathlib.Path, width: int) -> None:
  """Writes each model with random params."""
  rng = np.random.default_rng(0)
  for name, model in models(width).items():
    (folder / name).mkdir()
    hugging_face_folder.write(epath.Path(folder / name), model, {
        leaf: rng.standard_normal(spec.shape, np.float32)
        for leaf, spec in registry.specs(registry.build(model)).items()})


def transfer(
    model: config_lib.Decoder, case: str
) -> tuple[config_lib.Decoder, plan_lib.TransferPlan, dict[str, vocabulary.Vocabulary]]:
  """Returns the target's model, the plan and the vocabularies of a case."""
  every = (plan_lib.Rule(target="(.*)", source=r"\1"),)
  if case == "copied":
    return model, plan_lib.TransferPlan(rules=every, groups=_GROUPS), {}
  if case == "grown":
    target, plan = structure.grow(
        model, width=2 * model.width, num_heads=2 * model.num_heads,
        mlp_width=2 * model.mlp_width)
    return target, plan, {}
  # Every third token is new, and the others come in another order.
  size = model.vocab_size // 3
  rng = np.random.default_rng(1)
  old = [b"%d" % i for i in range(model.vocab_size)]
  new = [old[i] if i % 3 else b"new%d" % i
         for i in rng.permutation(model.vocab_size)[:size]]
  target = config_lib.Decoder(**{**vars(model), "vocab_size": size})
  fresh = "zeros" if case == "picked" else "normal"
  plan = plan_lib.TransferPlan(rules=every, groups=_GROUPS, axes=(
      plan_lib.On(axis="vocab", map=axes.MatchTokens(fresh=fresh)),))
  return target, plan, {"": vocabulary.Vocabulary(tokens=tuple(old)),
                        "target": vocabulary.Vocabulary(tokens=tuple(new))}


def in_processes(count: int, sizes: Sequence[int], width: int) -> dict[str, float]:
  """Returns bytes read over bytes of the shards, the largest ratio of the processes.

  It checks that each process restores the bits that a single one does, which has all
  devices of the mesh and reads the files as a whole.

  Args:
    count: Number of processes, of one device each.
    sizes: Sizes of the axes data, fsdp and tensor of their mesh.
    width: Of the models.

  Returns:
    The ratio of each model and case.
  """
  with tempfile.TemporaryDirectory() as folder:
    write(pathlib.Path(folder), width)
    _ended([_start(folder, 0, count, 0, sizes)])
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    found = _ended([
        _start(folder, port, count, index, sizes) for index in range(count)])
  return {name: max(one[name] for one in found) for name in found[0]}


def main(words: Sequence[str]) -> None:
  """Restores as one of several processes, or alone if the port is 0."""
  folder, (port, count, index, *sizes) = pathlib.Path(words[0]), map(int, words[1:])
  jax.config.update("jax_num_cpu_devices", 1 if port else count)
  if port:
    jax.distributed.initialize(f"localhost:{port}", count, index)
  mesh = sharding.make_mesh(*sizes)
  found = {}
  for path in sorted(path for path in folder.iterdir() if path.is_dir()):
    for case in CASES:
      rows, run = _restoring(path, case, mesh)
      params = run()
      whole = folder / f"{path.name} {case}.npz"
      if not port:
        np.savez(whole, **params)
        continue
      before = _bytes_read()
      params = run()
      read = _bytes_read() - before
      found[whole.stem] = read / _needed(rows, params, case)
      _check(params, whole)
  print(json.dumps(found), flush=True)


def _start(
    folder: str, port: int, count: int, index: int, sizes: Sequence[int]
) -> subprocess.Popen:
  words = [folder, *map(str, (port, count, index, *sizes))]
  return subprocess.Popen(
      [sys.executable, "-m", "benchmarks.bytes_read", *words], stdout=subprocess.PIPE,
      text=True)


def _ended(processes: Sequence[subprocess.Popen]) -> list[dict[str, float]]:
  printed = [one.communicate()[0] for one in processes]
  if any(one.returncode for one in processes):
    raise RuntimeError("A process has failed, see above.")
  return [json.loads(text.splitlines()[-1]) for text in printed]


def _restoring(path: pathlib.Path, case: str, mesh: jax.sharding.Mesh) -> Any:
  """Returns the rows of a case, and a function that restores its params."""
  source = sources.open(path, vocabulary=sources.NONE)
  target, plan, words = transfer(source.model, case)
  specs = registry.specs(registry.build(target))
  rows = resolve.resolve(plan, {"": source.specs}, specs, words)
  where = sharding.of_params(specs, mesh)
  return rows, lambda: jax.block_until_ready(restore.restore(
      rows, {"": source}, lambda names: {}, where, jax.random.key(3)))


def _needed(
    rows: Sequence[resolve.Row], params: Mapping[str, jax.Array], case: str) -> float:
  """Returns the bytes that the shards of this process have in the checkpoint's dtype.

  Where the mean of all rows is needed, it is this process's share of all of them.
  """
  total = 0.0
  for row in rows:
    mine = {str(shard.index): shard.data.nbytes
            for shard in params[row.name].addressable_shards}
    drawn = case == "drawn" and row.changes and row.source_spec is not None
    total += sum(mine.values()) * (
        math.prod(row.source_spec.shape) / math.prod(row.spec.shape) if drawn else 1)
  return total


def _check(params: Mapping[str, jax.Array], whole: pathlib.Path) -> None:
  with np.load(whole) as expected:
    for name, value in params.items():
      for shard in value.addressable_shards:
        wanted = expected[name][shard.index]
        if np.asarray(shard.data).tobytes() != wanted.tobytes():
          raise AssertionError(f"{whole.stem}: {name} has other bits.")


def _bytes_read() -> int:
  """Returns how many bytes this process has read, as Linux counts them."""
  with open("/proc/self/io", encoding="ascii") as file:
    return int(file.readline().split()[1])


if __name__ == "__main__":
  main(sys.argv[1:])
