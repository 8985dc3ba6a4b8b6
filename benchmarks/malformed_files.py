"""Makes checkpoints of every supported format, and corrupts them at random."""

from collections.abc import Callable, Mapping
import dataclasses
import io
import json
import random
import struct
import zipfile

from etils import epath
import h5py
import numpy as np

from transfer_gen.formats import safetensors

# Bytes that are likely to confuse a parser: extreme numbers and syntax.
_SPOILT = (b"\0", b"\xff", b"\x80", b"\x7f", b"\xff" * 4, b"\0" * 4, b"\xff" * 8,
           b"\xff\xff\xff\x7f", b"9", b"-", b"}", b"/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
  """A corrupted file.

  Attributes:
    data: The bytes of the file.
    touched: Ranges of bytes that were overwritten. None if bytes were added or removed,
      so that others have moved.
  """
  data: bytes
  touched: tuple[tuple[int, int], ...] | None


def write_all(folder: str, rows: int) -> None:
  """Writes one file per format, of incompressible numbers.

  Args:
    folder: Folder to write to.
    rows: Number of rows of the largest array, f32[rows, 256].
  """
  for name, make in FORMATS.items():
    (epath.Path(folder) / name).write_bytes(make(_arrays(rows)))


def mutant(data: bytes, seed: int) -> Mutant:
  """Truncates a file, or overwrites, deletes or repeats some of its bytes.

  Most changes are at the ends of the file, where formats keep their metadata.
  """
  rng = random.Random(seed)
  if rng.random() < 0.15:
    return Mutant(data=data[:rng.randrange(len(data))], touched=None)
  broken, touched = bytearray(data), []
  low, high = rng.choice([
      (0, len(data)), (0, min(200, len(data))), (0, min(2000, len(data))),
      (max(0, len(data) - 1000), len(data))])
  for _ in range(rng.choice([1, 1, 1, 2, 4])):
    start, kind = rng.randrange(low, high), rng.random()
    if kind < 0.8:
      spoilt = rng.choice(_SPOILT)[:len(broken) - start]
      broken[start:start + len(spoilt)] = spoilt
      if touched is not None:
        touched.append((start, start + len(spoilt)))
      continue
    touched = None
    if kind < 0.9:
      del broken[start:start + rng.randrange(1, 9)]
    else:
      broken[start:start] = broken[start:start + rng.randrange(1, 30)]
  return Mutant(data=bytes(broken), touched=None if touched is None else tuple(touched))


def _arrays(rows: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {"body": rng.normal(size=(rows, 256)).astype(np.float32),
          "half": rng.normal(size=(33,)).astype(np.float16),
          "ids": np.arange(12, dtype=np.int32).reshape(3, 4),
          "none": np.zeros((0, 3), np.float32)}


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
  path = epath.Path("made.safetensors")
  safetensors.write_file(path, arrays, {"format": "np"})
  data = path.read_bytes()
  path.unlink()
  return data


def _npz(arrays, save=np.savez) -> bytes:
  file = io.BytesIO()
  save(file, **arrays)
  return file.getvalue()


def _h5_old(arrays) -> bytes:
  """Returns a file in the format of Keras 2, with the largest array in chunks."""
  file = io.BytesIO()
  with h5py.File(file, "w") as weights:
    weights.attrs["layer_names"] = np.array([b"rnn"])
    group = weights.create_group("rnn")
    group.attrs["weight_names"] = [f"rnn_1/{name}:0" for name in arrays]
    for name, value in arrays.items():
      chunked = {"compression": "gzip", "shuffle": True} if name == "body" else {}
      group.create_dataset(f"rnn_1/{name}:0", data=value, **chunked)
  return file.getvalue()


def _h5_new(arrays) -> bytes:
  """Returns a file in the format of Keras 3."""
  file = io.BytesIO()
  with h5py.File(file, "w") as weights:
    for i, value in enumerate(arrays.values()):
      weights[f"layers/dense/vars/{i}"] = value
  return file.getvalue()


def _keras(arrays) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("config.json", json.dumps({"class_name": "Sequential"}))
    archive.writestr("model.weights.h5", _h5_new(arrays))
  return file.getvalue()


def _torch(arrays, zipped=True) -> bytes:
  import torch
  file = io.BytesIO()
  torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, file,
             _use_new_zipfile_serialization=zipped)
  return file.getvalue()


def _llama2c(arrays) -> bytes:
  """Returns a model of width 8, with as many tokens as fill the size of the others."""
  size = arrays["body"].size // 8
  # One layer: norms of 8, attention of 4 x 8 x 8, an MLP of 3 x 8 x 6; rotary tables.
  rest = 8 + 4 * 64 + 8 + 3 * 48 + 8 + 2 * 3 * 2
  head = struct.pack("<7i", 8, 6, 1, 2, 2, size, 3)
  table = np.resize(arrays["body"], size * 8 + rest)
  return head + table.astype("<f4").tobytes()


FORMATS: Mapping[str, Callable[[Mapping[str, np.ndarray]], bytes]] = {
    "a.safetensors": _safetensors,
    "old.h5": _h5_old,
    "new.weights.h5": _h5_new,
    "a.keras": _keras,
    "a.npz": _npz,
    "compressed.npz": lambda arrays: _npz(arrays, np.savez_compressed),
    "llama2c.bin": _llama2c,
    "torch.bin": _torch,
    "torch_before_1_6.bin": lambda arrays: _torch(arrays, zipped=False),
}
