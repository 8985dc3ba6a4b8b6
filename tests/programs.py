"""Lets the tests of a process share the programs that XLA compiled for them.

Many tests train or ask the same small model. Each makes functions of its own, which JAX
compiles anew, although the program is one that was compiled before. JAX would find it
in its cache on disk, but to write a small program there takes longer than to compile
it.
"""

from typing import Any

from jax._src import compiler

_COUNT = 1000  # Programs that are kept at most, which limits the memory they take.


def share() -> None:
  """Keeps compiled programs in memory, by the key of JAX's cache on disk."""
  read, write, kept = compiler._cache_read, compiler._cache_write, {}

  def reading(name: str, key: str, *args: Any) -> tuple[Any, float | None]:
    return (kept[key], 0) if key in kept else read(name, key, *args)

  def writing(
      key: str, seconds: float, name: str, backend: Any, program: Any, callbacks: Any,
  ) -> None:
    if not callbacks:  # Their functions may live no longer than the first program.
      kept[key] = program
      if len(kept) > _COUNT:
        del kept[next(iter(kept))]
    write(key, seconds, name, backend, program, callbacks)

  compiler._cache_read, compiler._cache_write = reading, writing
