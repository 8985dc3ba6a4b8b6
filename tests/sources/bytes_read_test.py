"""Tests that a process reads of a checkpoint what its own devices need."""

import json
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from benchmarks import bytes_read
from tests import paths
from tests import processes as started
from tests import processes_test
from transfer_gen import checkpoint
from transfer_gen import sharding
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.checkpoint import layout
from transfer_gen.maps import part_reader
from transfer_gen.maps import parts
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore

_PROGRAM = """
import sys
from benchmarks import bytes_read
bytes_read.main(sys.argv[1:])
"""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("models")
  bytes_read.write(folder, 32)
  return folder


def _as_safetensors(folder):
  return folder


def _as_shards(folder):
  """Divides the tensors among two files and an index."""
  arrays = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  files = {name: names[i % 2] for i, name in enumerate(arrays)}
  for file in names:
    safetensors.numpy.save_file(
        {name: arrays[name] for name in arrays if files[name] == file}, folder / file,
        {"format": "pt"})
  (folder / "model.safetensors.index.json").write_text(
      json.dumps({"metadata": {}, "weight_map": files}))
  return folder


def _as_torch(folder):
  arrays = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  torch.save({name: torch.tensor(x) for name, x in arrays.items()},
             folder / "pytorch_model.bin")
  return folder


@pytest.fixture(scope="module", name="wide")
def _wide(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wide")
  bytes_read.write(folder, 64)
  return folder


@pytest.mark.parametrize("form", ["gpt2", "llama"])
@pytest.mark.parametrize("write, sizes", [
    (_as_safetensors, (1, 4, 2)), (_as_safetensors, (1, 1, 8)),
    (_as_shards, (1, 4, 2)), (_as_torch, (1, 4, 2))])
def test_each_of_eight_devices_reads_the_bytes_of_its_own_shards(
    wide, tmp_path, write, form, sizes):
  shutil.copytree(wide / form, tmp_path / form)
  source = sources.open(write(tmp_path / form), vocabulary=sources.NONE)
  whole = dict(source.read(list(source.specs)))
  where = sharding.of_params(source.specs, sharding.make_mesh(*sizes))
  view = source.view
  of = lambda wanted: list(part_reader.parts_of(
      view.raw, list(view.rows.values()), view.how.copies, view.how.stale, wanted))
  of({name: tuple(np.arange(1) for _ in row.spec.shape)
      for name, row in view.rows.items()})  # Imports, once.

  for device in range(8):
    boxes = {name: list(where[name].devices_indices_map(spec.shape).values())[device]
             for name, spec in source.specs.items()}
    wanted = {name: parts.of_boxes(spec.shape, [boxes[name]], {})
              for name, spec in source.specs.items()}
    before = bytes_read._bytes_read()
    found = of(wanted)
    read = bytes_read._bytes_read() - before

    for row, part in found:
      np.testing.assert_array_equal(part.value, whole[row.name][boxes[row.name]])
    needed = sum(part.value.nbytes for _, part in found)
    assert needed <= read <= 1.1 * needed
    assert read < sum(value.nbytes for value in whole.values()) / 3


@pytest.mark.long
def test_two_processes_read_their_halves_and_restore_the_bits_of_one(folder):
  port = processes_test._free_port()
  run = lambda *words: started.start(
      _PROGRAM, str(folder), *map(str, words), "1", "1", "2", folder=paths.ROOT,
      together=False)
  alone = run(0, 2, 0)
  alone.stdout.read()
  assert alone.wait() == 0, alone.stderr.read()

  both = [run(port, 2, index) for index in range(2)]
  printed = [(one.stdout.read(), one.stderr.read()) for one in both]

  for one, (out, err) in zip(both, printed):
    assert one.wait() == 0, err  # Other bits end a process with an error.
    found = json.loads(out.splitlines()[-1])
    assert len(found) == 8 and max(found.values()) <= 1.1
    assert found["gpt2 grown"] < 1  # Copies of an entry are read once.


@pytest.mark.parametrize("make", ["memory", "stored"])
def test_any_source_takes_entries_before_it_places_them(tmp_path, make):
  arrays = {"head": np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)}
  named = {"head": ("vocab", "embed")}
  source = sources.from_tree(arrays, named)
  if make == "stored":
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save_best(3, jax.tree.map(jnp.asarray, arrays), {
        "axes": checkpoint.axes_facts(tree.specs(arrays, named))})
    checkpoints.close()
    source = sources.open(tmp_path)
  where = jax.sharding.NamedSharding(
      sharding.make_mesh(data=1, fsdp=2, tensor=4),
      jax.sharding.PartitionSpec("tensor", "fsdp"))
  index = np.array([5, -1, 0, 0], np.int32)

  ((_, value),) = source.read(["head"], {"head": where}, {"head": {0: index}})

  np.testing.assert_array_equal(
      value, np.where(index[:, None] < 0, 0, arrays["head"][index]))
  assert value.sharding == where


@pytest.mark.parametrize("fresh", ["zeros", "init", "mean"])
def test_picked_rows_are_those_of_a_whole_read(fresh):
  arrays = {"head": np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)}
  named = {"head": ("vocab", "embed")}
  source = sources.from_tree(arrays, named)
  specs = tree.specs({"head": jnp.zeros((8, 16))}, named)
  index = np.array([5, -1, 59, 0, 0, -1, 3, 3], np.int32)
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="head", source="head"),),
      groups=plan_lib.SCRATCH.groups,
      axes=(plan_lib.On(axis="vocab", map=axes.Select(index=np.maximum(index, 0))),))
  row, = resolve.resolve(plan, {"": source.specs}, specs)
  binding = plan_lib.Binding(index=index, fresh=fresh, note="")
  row = resolve.Row(**{**vars(row), "changes": (resolve.Change(
      dim=0, reads=False, binding=binding),)})
  asked = []

  class Asked:
    specs = source.specs

    def read(self, names, shardings=None, picks=None):
      asked.append(picks)
      return source.read(names, shardings, picks)

  init = np.full((8, 16), 7, np.float32)
  params = restore.restore(
      [row], {"": Asked()}, lambda names: {"head": jnp.asarray(init)},
      sharding.of_params(specs, sharding.make_mesh(data=1, tensor=8)))

  missing = {"zeros": 0 * init, "init": init,
             "mean": np.broadcast_to(np.asarray(jnp.mean(arrays["head"], 0)), (8, 16))}
  np.testing.assert_array_equal(params["head"], np.where(
      index[:, None] < 0, missing[fresh], arrays["head"][index]))
  # The mean needs all rows; of the others only those that are named are read.
  assert bool(asked[0]) == (fresh != "mean")


def test_a_large_param_of_a_single_device_is_saved_in_chunks(tmp_path):
  arrays = {"head": jnp.ones((3000, 1000)), "bias": jnp.ones(1000)}
  named = {"head": ("vocab", "embed"), "bias": ("embed",)}
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save_best(
      3, arrays, {"axes": checkpoint.axes_facts(tree.specs(arrays, named))})
  checkpoints.close()

  stored = sources.open(tmp_path)

  saved = layout.shapes(stored.path / layout.PARAMS)
  chunks = {name: leaf.storage.chunk_shape for name, leaf in saved.items()}
  assert chunks["bias"] == (1000,)
  assert 4 * np.prod(chunks["head"]) <= 4 * 2**20 < arrays["head"].nbytes
  np.testing.assert_array_equal(dict(stored.read(["head"]))["head"], arrays["head"])
