"""Compiled programs that a process keeps, which are many after many trainings."""

import gc
import pathlib

import jax

_MAPS = pathlib.Path("/proc/self/maps")


def drop(pieces: int) -> bool:
  """Drops compiled programs where they take more than some pieces of memory.

  XLA maps pieces of memory for each program, of which Linux gives a process 65,530;
  beyond them it ends in a segmentation fault. What is needed again is compiled again.

  Args:
    pieces: Number of pieces up to which all programs are kept.

  Returns:
    Whether they were dropped; always False where the system does not count pieces.
  """
  if not _MAPS.exists() or _MAPS.read_bytes().count(b"\n") <= pieces:
    return False
  jax.clear_caches()
  gc.collect()
  return True
