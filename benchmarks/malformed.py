"""Checkpoints that are broken or lie: is each an error that says so, or a right load?

Run: python -m benchmarks.malformed (about 5 minutes on 2 cores; extra `benchmarks`).
Files of every format that is read are cut, overwritten, and gain or lose bytes, and
each is then opened and read whole in a process of its own, which is forked from one
that has the modules loaded. The last line is JSON:

  mutants, refused, loaded: how many there were, were refused with one clear error (a
      `UserError` of less than 1000 characters that names the file), and were read.
  wrong: of those, how many were read wrongly: a leaf is not of the shape and dtype that
      were reported before it was read, or is described as in the good file, with none
      of its bytes overwritten, and differs from it. (Of arrays in chunks or compressed,
      which have checksums of their own, the former alone is checked.)
  unclear, crashed, hung: another exception; a process that died; one that took over
      5 s.
  slowest_s: the longest that took.
  peak_over_file: peak memory above that of a warm process, by the size of the file, of
      files of 8 MB; all leaves of a load are held at once.
  small_peak_mb: the same of files of some 10 KB, in MB; of good ones `floor_mb`, which
      is what the interpreter itself takes meanwhile.
  converted, left_outside: mutants that went through `convert`, and how many of them
      left a file outside the output folder, or an output that is not whole.
"""

import ctypes
import json
import os
import pathlib
import select
import signal
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import malformed_files as files
from benchmarks import timing
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import convert
from transfer_gen.formats import raw

_SMALL, _LARGE = 8, 8192  # Rows of the largest array, 1 KB each.
_MANY, _FEW, _CONVERTED = 1112, 30, 40  # Mutants a format.
_SECONDS, _LONGEST = 5, 1000
_OUTPUT = "output"
_MMAP_THRESHOLD = -3  # Of glibc's malloc.h.


def read(path: str, good: str, touched: Any) -> dict[str, Any]:
  """Opens and reads a mutant; how it went.

  Args:
    path: The file.
    good: The file that it was made of.
    touched: As `Mutant.touched`.
  """
  known = _known(good)  # Warms up as well: code, buffers, a good read.
  base, start = timing.memory("VmRSS"), time.perf_counter()
  try:
    source = sources.open(path)
    loaded = dict(source.read(list(source.specs)))
    outcome = "loaded"
  except errors.UserError as error:
    clear = path in str(error) and len(str(error)) < _LONGEST
    outcome = "refused" if clear else "unclear"
  except Exception as error:  # What must never happen, and is counted.
    print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
    outcome = "unclear"
  seconds = time.perf_counter() - start
  peak = timing.memory("VmHWM") - base
  if outcome == "loaded" and _is_wrong(source, loaded, known, touched):
    outcome = "wrong"
  return {"outcome": outcome, "seconds": seconds, "peak": peak}


def converted(path: str, form: str) -> dict[str, Any]:
  """Converts a mutant in the folder where it lies; how it went."""
  folder = pathlib.Path(path).parent
  os.chdir(folder)
  before = set(folder.rglob("*"))
  try:
    convert.convert(path, folder / _OUTPUT, form)
    outcome = "loaded"
  except errors.UserError:
    outcome = "refused"
  new = {p for p in folder.rglob("*") if p not in before}
  inside = {p for p in new if (folder / _OUTPUT) in (p, *p.parents)}
  whole = outcome == "loaded" or not inside
  return {"outcome": outcome if new == inside and whole else "left", "seconds": 0.0,
          "peak": 0}


def main() -> None:
  """Measures and prints."""
  # Large blocks are mapped and given back: what this process has freed must not serve
  # the forked ones, whose memory is measured.
  ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**16)
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for size, rows in (("small", _SMALL), ("large", _LARGE)):
      os.mkdir(size)
      timing.alone(files.write_all, f"{folder}/{size}", rows)
    small, large, floor = [], [], []
    for name in files.FORMATS:
      good = f"{folder}/small/{name}"
      small += (found := _spoil(good, good, _MANY))
      large += (big := _spoil(f"{folder}/large/{name}", good, _FEW))
      floor += [_alone(read, good, good, ()) for _ in range(3)]
      counts = {kind: sum(r["outcome"] == kind for r in found) for kind in (
          "refused", "loaded")}
      print(f"{name:24} {counts['refused']:5} refused {counts['loaded']:5} loaded"
            f"  slowest {max(r['seconds'] for r in found):.2f} s, of 8 MB a peak of"
            f" {max(r['peak'] / r['size'] for r in big):.2f} x the file", flush=True)
    moved = _convert(folder)
  every = [*small, *large]
  count = lambda kind: sum(r["outcome"] == kind for r in every)
  print(json.dumps({
      "mutants": len(every), **{kind: count(kind) for kind in (
          "refused", "loaded", "wrong", "unclear", "crashed", "hung")},
      "slowest_s": round(max(r["seconds"] for r in every), 2),
      "peak_over_file": round(max(r["peak"] / r["size"] for r in large), 3),
      "small_peak_mb": round(max(r["peak"] for r in small) / 2**20, 2),
      "floor_mb": round(max(r["peak"] for r in floor) / 2**20, 2),
      "converted": len(moved),
      "left_outside": sum(r["outcome"] not in ("refused", "loaded") for r in moved)}))


def _spoil(path: str, good: str, count: int) -> list[dict[str, Any]]:
  """Reads so many mutants of a file."""
  data, found = pathlib.Path(path).read_bytes(), []
  folder = pathlib.Path(path).parent / "spoilt"
  folder.mkdir(exist_ok=True)
  target = folder / pathlib.Path(path).name
  for seed in range(count):
    made = files.mutant(data, seed)
    target.write_bytes(made.data)
    # Sizes are those of the good file: a cut one may hold nothing at all.
    found.append(_alone(read, str(target), path if path == good else good, (
        made.touched if path == good else None)) | {"size": len(data)})
    if found[-1]["outcome"] not in ("refused", "loaded"):
      print(f"{path}, seed {seed}: {found[-1]['outcome']}", flush=True)
  target.unlink()
  return found


def _convert(folder: str) -> list[dict[str, Any]]:
  """Converts mutants of what a map recognizes; each in a folder of its own."""
  data = pathlib.Path(folder, "small", "llama2c.bin").read_bytes()
  found = []
  for seed in range(_CONVERTED):
    with tempfile.TemporaryDirectory(dir=folder) as own:
      path = pathlib.Path(own, "llama2c.bin")
      path.write_bytes(files.mutant(data, seed).data)
      found.append(_alone(converted, str(path), "safetensors", seconds=60))
  return found


def _alone(function, *given, seconds: float = _SECONDS) -> dict[str, Any]:
  """Runs in a process forked from this one, which nothing that happens there harms."""
  receive, send = os.pipe()
  child = os.fork()
  if not child:
    os.close(receive)
    try:
      os.write(send, json.dumps(function(*given)).encode())
    finally:
      os._exit(0)
  os.close(send)
  ready, _, _ = select.select([receive], [], [], seconds)
  answer = os.read(receive, 4096) if ready else b""
  if not ready:
    os.kill(child, signal.SIGKILL)
  os.close(receive)
  os.waitpid(child, 0)
  if answer:
    return json.loads(answer)
  return {"outcome": "crashed" if ready else "hung", "seconds": seconds, "peak": 0}


def _known(good: str) -> dict[str, tuple[raw.Leaf, np.ndarray]]:
  """Leaves of a good file by name, and their values."""
  source = sources.open(good)
  return {name: (source.leaves[name], value)
          for name, value in source.read(list(source.specs))}


def _is_wrong(source, loaded, known, touched) -> bool:
  """Whether what was read is not what the file says; see above."""
  for name, value in loaded.items():
    spec = source.specs[name]
    if (value.shape, value.dtype) != (spec.shape, spec.dtype):
      return True
    leaf, wanted = known.get(name, (None, None))
    if touched is None or not isinstance(leaf, raw.Extent):
      continue
    ours = source.leaves[name]
    place = lambda of: (of.offset, of.shape, of.dtype, of.strides)
    alike = isinstance(ours, raw.Extent) and place(ours) == place(leaf)
    end = leaf.offset + leaf.nbytes
    if alike and all(b <= leaf.offset or a >= end for a, b in touched) and (
        value.tobytes() != wanted.tobytes()):
      return True
  return False


if __name__ == "__main__":
  main()
