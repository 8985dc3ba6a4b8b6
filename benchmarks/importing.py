"""Compares importing a Hugging Face checkpoint with only reading its bytes.

Run: python -m benchmarks.importing (about 20 seconds on 2 cores, 1.5 GB of memory and
0.5 GB of disk). A random GPT-2 small (124 million params, 500 MB) is written as
safetensors, and read through its map into sharded fp32 params. Each measurement has a
process of its own. The last line is JSON:

  import_over_read: time of the import, including the opening, over the time of reading
      the bytes of the same tensors from the same file and placing them on the device.
  import_peak_over_params: peak memory of the import over the bytes of the params.
"""

import json
import tempfile

from etils import epath
import jax
import numpy as np

from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen import sharding
from transfer_gen import sources
from transfer_gen.export import hugging_face_folder
from transfer_gen.formats import detect
from transfer_gen.models import registry

_GPT2 = config_lib.Decoder(
    vocab_size=50_257, num_layers=12, width=768, num_heads=12, max_length=1024)
_ROUNDS = 7


def timed(folder: str) -> dict[str, float]:
  """Compares the times of importing and reading."""
  found = timing.in_turns(
      lambda: jax.block_until_ready(_imported(folder)),
      lambda: jax.block_until_ready(_read(folder)), _ROUNDS)
  print(f"import: {found.ours:.3f} s, reading {found.peer:.3f} s", flush=True)
  return {"import_over_read": round(found.ratio, 3)}


def peak(folder: str) -> dict[str, float]:
  """Measures the peak memory of one import."""
  base = timing.memory("VmRSS")
  params = jax.block_until_ready(_imported(folder))
  size = sum(value.nbytes for value in params.values())
  return {"import_peak_over_params": round((timing.memory("VmHWM") - base) / size, 3)}


def main() -> None:
  """Runs both measurements and prints their results."""
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    timing.alone(_write, folder)
    for measure in (timed, peak):
      results |= timing.alone(measure, folder)
  print(json.dumps(results))


def _write(folder: str) -> None:
  rng = np.random.default_rng(0)
  hugging_face_folder.write(epath.Path(folder), _GPT2, {
      name: rng.standard_normal(spec.shape, np.float32)
      for name, spec in registry.specs(registry.build(_GPT2)).items()})


def _imported(folder: str) -> dict[str, jax.Array]:
  source = sources.open(folder)
  where = sharding.of_params(source.specs, sharding.make_mesh())
  return dict(source.read(list(source.specs), where))


def _read(folder: str) -> list[jax.Array]:
  """Reads the same bytes tensor by tensor, without any conversion."""
  opener = detect.opener_of(folder)
  assert opener is not None  # A folder with model.safetensors.
  leaves = opener().leaves
  arrays = []
  # Without a buffer, each tensor is read straight into its array.
  with open(next(iter(leaves.values())).path, "rb", buffering=0) as file:
    for leaf in leaves.values():
      value = np.empty(leaf.shape, leaf.dtype)
      file.seek(leaf.offset)
      file.readinto(memoryview(value).cast("B"))
      arrays.append(jax.device_put(value))
  return arrays


if __name__ == "__main__":
  main()
