"""Flipped bits in checkpoints of a run, and the cost of noticing them."""

import contextlib
import io
import pathlib
import random
import shutil
import statistics
import tempfile
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import checkpoint
from transfer_gen import sealed
from transfer_gen.checkpoint import digests
from transfer_gen.checkpoint import whole_files

_SHAPES = {"body/kernel": (64, 48), "body/bias": (48,), "head": (48, 5, 3)}


def run(count: int, seed: int) -> dict[str, int]:
  """Flips one bit of a checkpoint `count` times, and restores it each time.

  Half of the bits are drawn over all bytes, and half over all files.

  Returns:
    `flips`; `noticed`, those that were refused by name; and `failures`: the others.
  """
  counts = {"flips": count, "noticed": 0, "failures": 0}
  generator = random.Random(seed)
  params = _params(np.random.default_rng(seed))
  with tempfile.TemporaryDirectory() as folder:
    good = pathlib.Path(folder, "good")
    _save(good, params)
    for trial in range(count):
      spoilt = pathlib.Path(folder, "spoilt")
      shutil.copytree(good, spoilt)
      path, bit = _draw(spoilt / checkpoint.FOLDER / "1", generator, trial % 2 == 0)
      content = bytearray(path.read_bytes())
      content[bit // 8] ^= 1 << bit % 8
      path.write_bytes(content)
      outcome = "noticed" if _is_noticed(spoilt, params) else "failures"
      counts[outcome] += 1
      if outcome == "failures":
        print(f"{path.relative_to(spoilt)}, bit {bit}", flush=True)
      shutil.rmtree(spoilt)
  return counts


def share_of_time(megabytes: int, rounds: int) -> float:
  """Returns the time of all digests over the time of a save and a restore.

  Params and moments are of `megabytes` each, in leaves of 4 MB.
  """
  generator = np.random.default_rng(0)
  params = {f"layer_{i}": jax.device_put(
      generator.standard_normal((1024, 1024), np.float32))
            for i in range(megabytes // 4)}
  moments = {name: value + 1 for name, value in params.items()}
  shares = []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = checkpoint.Checkpoints(folder)
    for step in range(rounds):
      start = time.perf_counter()
      checkpoints.save(step, params, {"all": moments}, {"axes": {}})
      checkpoints.wait()
      checkpoints.restore(step, _abstract(params), {"all": _abstract(moments)})
      whole = time.perf_counter() - start
      saved = epath.Path(folder, checkpoint.FOLDER, str(step))
      (saved / sealed.FILE).unlink()
      start = time.perf_counter()
      for _ in range(2):  # Once when saving, and once when restoring.
        digests.of(params), digests.of(moments)
      whole_files.seal(saved)
      whole_files.check(saved)
      shares.append((time.perf_counter() - start) / whole)
    checkpoints.close()
  return statistics.median(shares)


def _params(generator: np.random.Generator) -> dict[str, jax.Array]:
  params = {name: jax.numpy.asarray(generator.standard_normal(shape), np.float32)
            for name, shape in _SHAPES.items()}
  return {**params, "head": params["head"].astype(jax.numpy.bfloat16)}


def _save(folder: pathlib.Path, params: Any) -> None:
  checkpoints = checkpoint.Checkpoints(folder)
  checkpoints.save(1, params, {"all": params}, {"axes": {}})
  checkpoints.close()


def _draw(
    folder: pathlib.Path, generator: random.Random, by_byte: bool
) -> tuple[pathlib.Path, int]:
  """Draws a file of a checkpoint and the number of a bit in it."""
  files = [path for path in sorted(folder.rglob("*"))
           if path.is_file() and path.stat().st_size]
  sizes = [path.stat().st_size for path in files]
  [path] = generator.choices(files, weights=sizes if by_byte else None)
  return path, generator.randrange(8 * path.stat().st_size)


def _is_noticed(folder: pathlib.Path, params: Any) -> bool:
  checkpoints = checkpoint.Checkpoints(folder)
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      checkpoints.facts(1)
      checkpoints.restore(1, _abstract(params), {"all": _abstract(params)})
  except checkpoint.Damaged as damage:
    return f"{folder}/" in str(damage)
  except Exception as error:  # Must never happen; each occurrence is counted.
    print(f"{type(error).__name__}: {error}", flush=True)
  finally:
    checkpoints.close()
  return False


def _abstract(params: Any) -> dict[str, jax.ShapeDtypeStruct]:
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return {name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=where)
          for name, value in params.items()}
