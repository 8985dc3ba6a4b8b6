"""Checks that corrupted checkpoints are refused clearly or read correctly.

Run: python -m benchmarks.malformed [MUTANTS] (about 5 minutes on 2 cores; extra
`benchmarks`). MUTANTS of small files are read for each format, 1112 by default.
Files of every supported format are truncated, overwritten, or gain or lose bytes. Each
mutant is opened and read completely in a process of its own, which is forked from one
that has already imported the modules. The last line is JSON:

  mutants: number of mutants that were read.
  refused: mutants refused with one clear error: a `UserError` of less than 1000
      characters that names the file.
  loaded: mutants that were read correctly.
  wrong: mutants that were read incorrectly. Either a leaf does not have the shape and
      dtype that were reported before it was read; or a leaf lies where it lies in the
      good file, none of its bytes were overwritten, and its values differ. Arrays that
      are chunked or compressed have checksums of their own, so only the first is
      checked for them.
  unclear: mutants that raised another exception.
  crashed: mutants that killed the process.
  hung: mutants that took more than 10 s of the processor, or two minutes in all.
  slowest_s: the longest time of a mutant, in seconds.
  peak_over_file: peak memory over file size for files of 8 MB, above the memory of a
      process that has read a good file. All leaves are held at once.
  small_peak_mb: peak memory for files of about 10 KB, in MB.
  floor_mb: the same for good files, which the interpreter itself needs.
  converted: mutants that went through `convert`.
  left_outside: those that left a file outside the output folder, or an incomplete
      output.
"""

import ctypes
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import forking
from benchmarks import malformed_files as files
from benchmarks import timing
from transfer_gen import errors
from transfer_gen.export import convert
from transfer_gen.formats import detect
from transfer_gen.formats import raw

_SMALL, _LARGE = 8, 8192  # Rows of the largest array, of 1 KB each.
_MANY, _FEW, _CONVERTED = 1112, 30, 40  # Mutants per format.
_LONGEST = 1000  # Characters of an error.
_OUTPUT = "output"
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD in glibc's malloc.h.


def read(path: str, good: str, touched: Any) -> dict[str, Any]:
  """Opens and reads a mutant, and returns the outcome, the time and the peak memory.

  Args:
    path: The mutant.
    good: The file that it was made from.
    touched: Ranges of bytes that were overwritten, as in `Mutant.touched`.
  """
  # Reading the good file also warms up code and buffers, so that the peak below is the
  # mutant's own.
  known = _known(good)
  base, start = timing.memory("VmRSS"), time.perf_counter()
  try:
    source = _opened(path)
    loaded = dict(source.read(list(source.specs)))
    outcome = "loaded"
  except errors.UserError as error:
    clear = path in str(error) and len(str(error)) < _LONGEST
    outcome = "refused" if clear else "unclear"
  except Exception as error:  # Must never happen; each occurrence is counted.
    print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
    outcome = "unclear"
  seconds = time.perf_counter() - start
  peak = timing.memory("VmHWM") - base
  if outcome == "loaded" and _is_wrong(source, loaded, known, touched):
    outcome = "wrong"
  return {"outcome": outcome, "seconds": seconds, "peak": peak}


def converted(path: str, form: str) -> dict[str, Any]:
  """Converts a mutant in its own folder, and returns the outcome."""
  folder = pathlib.Path(path).parent
  os.chdir(folder)
  before = set(folder.rglob("*"))
  try:
    convert.convert(path, folder / _OUTPUT, form)
    outcome = "loaded"
  except errors.UserError:
    outcome = "refused"
  new = {item for item in folder.rglob("*") if item not in before}
  inside = {item for item in new if (folder / _OUTPUT) in (item, *item.parents)}
  complete = outcome == "loaded" or not inside  # A refused conversion leaves nothing.
  return {"outcome": outcome if new == inside and complete else "left", "seconds": 0.0,
          "peak": 0}


def main(many: int = _MANY) -> None:
  """Reads and converts mutants, `many` for each format, and prints the counts."""
  # Makes malloc return freed blocks to the system at once. Otherwise, forked processes
  # would reuse blocks that this one has freed, and their memory would be undercounted.
  ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**16)
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for size, rows in (("small", _SMALL), ("large", _LARGE)):
      os.mkdir(size)
      timing.alone(files.write_all, f"{folder}/{size}", rows)
    small, large, floor = [], [], []
    for name in files.FORMATS:
      good = f"{folder}/small/{name}"
      small += (found := _spoil(good, good, many))
      large += (big := _spoil(
          f"{folder}/large/{name}", good, min(_FEW, many)))
      floor += [forking.alone(read, good, good, ()) for _ in range(3)]
      counts = {kind: sum(result["outcome"] == kind for result in found)
                for kind in ("refused", "loaded")}
      slowest = max(result["seconds"] for result in found)
      peak = max(result["peak"] / result["size"] for result in big)
      print(f"{name:24} {counts['refused']:5} refused {counts['loaded']:5} loaded"
            f"  slowest {slowest:.2f} s, of 8 MB a peak of {peak:.2f} x the file",
            flush=True)
    moved = _convert(folder, min(_CONVERTED, many))
  every = [*small, *large]
  count = lambda kind: sum(result["outcome"] == kind for result in every)
  print(json.dumps({
      "mutants": len(every), **{kind: count(kind) for kind in (
          "refused", "loaded", "wrong", "unclear", "crashed", "hung")},
      "slowest_s": round(max(result["seconds"] for result in every), 2),
      "peak_over_file": round(
          max(result["peak"] / result["size"] for result in large), 3),
      "small_peak_mb": round(max(result["peak"] for result in small) / 2**20, 2),
      "floor_mb": round(max(result["peak"] for result in floor) / 2**20, 2),
      "converted": len(moved),
      "left_outside": sum(
          result["outcome"] not in ("refused", "loaded") for result in moved)}))


def _spoil(path: str, good: str, count: int) -> list[dict[str, Any]]:
  """Makes and reads `count` mutants of a file."""
  data, found = pathlib.Path(path).read_bytes(), []
  folder = pathlib.Path(path).parent / "spoilt"
  folder.mkdir(exist_ok=True)
  target = folder / pathlib.Path(path).name
  for seed in range(count):
    made = files.mutant(data, seed)
    target.write_bytes(made.data)
    # Peaks are compared with the size of the good file, as a mutant may be empty.
    found.append(forking.alone(read, str(target), path if path == good else good, (
        made.touched if path == good else None)) | {"size": len(data)})
    if found[-1]["outcome"] not in ("refused", "loaded"):
      print(f"{path}, seed {seed}: {found[-1]['outcome']}", flush=True)
  target.unlink()
  return found


def _convert(folder: str, count: int) -> list[dict[str, Any]]:
  """Converts `count` mutants of a file of a known map, each in a folder of its own."""
  data = pathlib.Path(folder, "small", "llama2c.bin").read_bytes()
  found = []
  for seed in range(count):
    with tempfile.TemporaryDirectory(dir=folder) as own:
      path = pathlib.Path(own, "llama2c.bin")
      path.write_bytes(files.mutant(data, seed).data)
      found.append(forking.alone(converted, str(path), "safetensors", seconds=60))
  return found


def _opened(path: str) -> raw.Raw:
  """Opens a file under its own names: a map would need a config beside it."""
  opener = detect.opener_of(path)
  assert opener is not None  # All forms are recognized by their names.
  return opener()


def _known(good: str) -> dict[str, tuple[raw.Leaf, np.ndarray]]:
  """Returns the leaves of a good file and their values by name."""
  source = _opened(good)
  return {name: (source.leaves[name], value)
          for name, value in source.read(list(source.specs))}


def _is_wrong(source, loaded, known, touched) -> bool:
  """Returns whether a mutant was read incorrectly, as the module docstring defines."""
  for name, value in loaded.items():
    spec = source.specs[name]
    if (value.shape, value.dtype) != (spec.shape, spec.dtype):
      return True
    leaf, wanted = known.get(name, (None, None))
    if touched is None or not isinstance(leaf, raw.Extent):
      continue
    ours = source.leaves[name]
    place = lambda extent: (extent.offset, extent.shape, extent.dtype, extent.strides)
    alike = isinstance(ours, raw.Extent) and place(ours) == place(leaf)
    end = leaf.offset + leaf.nbytes
    intact = all(stop <= leaf.offset or start >= end for start, stop in touched)
    if alike and intact and value.tobytes() != wanted.tobytes():
      return True
  return False


if __name__ == "__main__":
  main(*map(int, sys.argv[1:2]))
