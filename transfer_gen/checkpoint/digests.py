"""Digests of what a checkpoint holds, so that damage on a disk does not load."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
from typing import Any

import jax
import numpy as np
import xxhash

from transfer_gen import errors
from transfer_gen import global_arrays
from transfer_gen import processes
from transfer_gen import system

INSTEAD = "Take another step with --step=N, or train again in a new --workdir."


class Damaged(errors.UserError):
  """A checkpoint lacks something, or holds other bytes than were saved."""


def leaves(tree: Any) -> dict[str, jax.Array]:
  """Returns the leaves of a tree by the keys on the way to each, joined with slashes.

  Dicts, tuples and dataclasses that Orbax reads back as dicts have the same keys.
  """
  return {"/".join(map(str, keys(path))): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def keys(path: tuple[Any, ...]) -> tuple[Any, ...]:
  """Returns the keys of a path in a tree: of dicts, sequences and dataclasses."""
  return tuple(next(getattr(entry, kind) for kind in ("key", "idx", "name")
                    if hasattr(entry, kind)) for entry in path)


def of(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, str]:
  """Returns the dtype, the shape and the XXH3 digest of the bytes of each array.

  XXH3 (github.com/Cyan4973/xxHash) reads about 20 GB/s, so that it costs little beside
  a disk. Of arrays that lie on several processes, each gets the whole, one at a time.
  """
  return {name: _digest(value) for name, value in arrays.items()}


def not_finite(arrays: Mapping[str, jax.Array]) -> list[str]:
  """Returns the names of arrays with values that are not finite, in order."""
  # On the host, which is to write them in any case: a program of its own would take
  # longer to compile than the steps of a small run. Each process looks at its parts.
  parts = lambda value: [value] if global_arrays.is_whole(value) else [
      part.data for part in value.addressable_shards]
  mine = [name for name, value in arrays.items()
          if not all(np.isfinite(np.asarray(part)).all() for part in parts(value))]
  return sorted(set().union(*map(json.loads, processes.gather(json.dumps(mine)))))


def kind(dtype: Any, shape: Sequence[int]) -> str:
  """Returns how a digest begins, such as `float32[8,2]`."""
  return f"{np.dtype(dtype).name}[{','.join(map(str, shape))}]"


def spec(digest: str) -> tuple[np.dtype, tuple[int, ...]]:
  """Returns dtype and shape of the array that a digest was made of.

  Raises:
    ValueError: If it is no digest.
  """
  name, _, rest = digest.partition("[")
  shape, _, _ = rest.partition("]")
  return jax.numpy.dtype(name), tuple(int(size) for size in shape.split(",") if size)


def _digest(array: jax.Array | np.ndarray) -> str:
  value = np.ascontiguousarray(global_arrays.whole(array))
  # As bytes: a buffer of bfloat16 is not one that C code can read.
  content = value.reshape(-1).view(np.uint8).data
  return f"{kind(array.dtype, array.shape)} {xxhash.xxh3_64_hexdigest(content)}"


def check(
    arrays: Mapping[str, jax.Array], expected: Mapping[str, str], where: Any) -> None:
  """Compares arrays that were read with the digests of those that were saved.

  Args:
    arrays: Arrays by name.
    expected: Digests by name, of at least these arrays.
    where: Folder that they were read from.

  Raises:
    Damaged: If one differs.
  """
  for name, digest in of(arrays).items():
    if expected.get(name, digest) != digest:
      raise Damaged(f"{where}: the checkpoint is damaged. Leaf {name} is not the one"
                    f" that was saved. {INSTEAD}")


def check_kinds(
    shapes: Mapping[str, Any], expected: Mapping[str, str], where: Any) -> None:
  """Compares dtypes and shapes, before memory of their size is taken.

  Args:
    shapes: What has a `dtype` and a `shape`, by name.
    expected: Digests by name.
    where: Folder that they were read from.

  Raises:
    Damaged: If one differs, or a leaf is missing.
  """
  found = {name: kind(leaf.dtype, leaf.shape) for name, leaf in shapes.items()}
  for name, digest in expected.items():
    if found.get(name) != digest.split()[0]:
      raise Damaged(f"{where}: the checkpoint is damaged. Leaf {name} was saved as"
                    f" {digest.split()[0]} and is {found.get(name, 'missing')} now."
                    f" {INSTEAD}")


def seal(facts: Mapping[str, Any], digests: Mapping[str, Any]) -> dict[str, Any]:
  """Returns facts, the digests of the arrays beside them, and a digest of both."""
  content = {"facts": dict(facts), "digests": dict(digests)}
  return {**content, "digest": _of_json(content)}


def unseal(sealed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the facts and the digests of `seal`.

  Raises:
    ValueError: If the digest of both is another.
    KeyError: If one is missing.
  """
  content = {name: sealed[name] for name in ("facts", "digests")}
  if sealed["digest"] != _of_json(content):
    raise ValueError("its facts are not those that were saved")
  return content["facts"], content["digests"]


def _of_json(content: Any) -> str:
  return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


@contextlib.contextmanager
def agreed() -> Iterator[None]:
  """Raises `Damaged` in all processes that work together if the body does in one."""
  damage = ""
  try:
    yield
  except Damaged as error:
    damage = str(error)
    if processes.count() == 1:
      raise
  for text in processes.gather(damage):
    if text:
      raise Damaged(text)


@contextlib.contextmanager
def reading(folder: Any) -> Iterator[None]:
  """Turns what libraries raise for a damaged folder into one error.

  Args:
    folder: The folder of a checkpoint.

  Raises:
    Damaged: If something in the folder is missing or cannot be read.
    errors.UserError: If this process lacks memory, permission or the like. That is not
      damage: a checkpoint that is whole must not be set aside for it.
  """
  try:
    yield
  # Orbax, TensorStore and JSON raise a dozen types for damaged files, Orbax a plain
  # `Exception` among them.
  except Exception as error:
    if isinstance(error, Damaged):
      raise
    if cause := system.passing(error):
      raise errors.UserError(
          f"{folder}: the checkpoint cannot be read now: {cause}. It was left as it is."
          f" {system.AGAIN}") from error
    raise Damaged(
        f"{folder}: not a complete checkpoint of transfer_gen"
        f" ({errors.cause(error)}). {INSTEAD}") from error
