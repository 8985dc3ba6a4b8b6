"""Dataclasses of plans as JSON types and back; arrays stand beside the JSON, by hash.

A plan must stay readable for people, so an array is replaced by its hash, dtype and
shape; the caller stores the array itself in another file.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
from typing import Any

import numpy as np

from transfer_gen import errors

# Classes that a field may hold one of several of; JSON names these by "kind".
KINDS: dict[str, type] = {}
# Fields whose tuples of integers are stored as arrays, because they may be long.
_AS_ARRAYS = frozenset({"table_rows"})


def encode(value: Any) -> Any:
  """Returns a value as JSON types; fields at their defaults are left out.

  >>> from transfer_gen.transfer import axes  # Registers its classes in KINDS.
  >>> encode(axes.Grow(noise=0.1)), encode(axes.Grow())
  ({'kind': 'Grow', 'noise': 0.1}, {'kind': 'Grow'})
  """
  if isinstance(value, np.ndarray):
    return {"array": _hash(value), "dtype": str(value.dtype),
            "shape": list(value.shape)}
  if isinstance(value, (tuple, list)):
    return [encode(v) for v in value]
  if not dataclasses.is_dataclass(value):
    return value
  # Rules and groups stand where only they can stand, and need no kind.
  kind = {"kind": type(value).__name__} if type(value).__name__ in KINDS else {}
  return kind | {
      field.name: encode(_stored(value, field))
      for field in dataclasses.fields(value)
      if not _is_default(field, getattr(value, field.name))}


def arrays(value: Any) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the arrays in a value, with the hash that `encode` names them by."""
  if isinstance(value, np.ndarray):
    yield _hash(value), value
  elif dataclasses.is_dataclass(value):
    for field in dataclasses.fields(value):
      yield from arrays(_stored(value, field))


def decode(value: Any, stored: Mapping[str, np.ndarray]) -> Any:
  """Returns what `encode` encoded; a dataclass without a kind comes as a dict.

  >>> from transfer_gen.transfer import axes
  >>> kept = axes.Select(index=np.array([2, 0]))
  >>> decode(encode(kept), dict(arrays(kept))).index.tolist()
  [2, 0]

  Args:
    value: JSON types.
    stored: Arrays by their hash.

  Raises:
    KeyError: If an array is not in `stored` or a kind is not registered.
    errors.UserError: If a kind lacks a field, has one that its class does not know, or
      a field has a value that it does not declare.
  """
  # Plans hold tuples, which can be hashed, and JSON knows lists only.
  if isinstance(value, list):
    return tuple(decode(v, stored) for v in value)
  if not isinstance(value, Mapping):
    return value
  if "array" in value:
    if not isinstance(value["array"], str) or value["array"] not in stored:
      raise KeyError(f"array {value['array']} is not stored with it")
    return stored[value["array"]]
  fields = {k: decode(v, stored) for k, v in value.items() if k != "kind"}
  if "kind" not in value:
    return fields
  if not isinstance(value["kind"], str) or value["kind"] not in KINDS:
    raise KeyError(f"kind {value['kind']!r} is not known to this version")
  return KINDS[value["kind"]](**fields)


def part(
    name: str, kind: Any, value: Any, stored: Mapping[str, np.ndarray]) -> Any:
  """Returns a part of a plan that is no `kind` of several classes.

  Args:
    name: What messages call it.
    kind: Its dataclass; None for a plain value.
    value: JSON types. What is no object is returned as it is; the plan refuses it.
    stored: Arrays by their hash.

  Raises:
    errors.UserError: If an array, a kind or a field is unknown, or a field has a value
      that it does not declare.
  """
  try:
    decoded = decode(value, stored)
    if kind is None or not isinstance(decoded, dict):
      return decoded
    return kind(**decoded)
  except KeyError as error:
    raise errors.UserError(f"{name}: {error.args[0]}.") from error
  except errors.UserError as error:
    raise errors.UserError(f"{name}: {error}") from error


def _stored(owner: Any, field: dataclasses.Field) -> Any:
  value = getattr(owner, field.name)
  # int32 is enough for the rows of a table, and what `resolve` makes of them.
  if field.name in _AS_ARRAYS and isinstance(value, tuple):
    return np.asarray(value, np.int32)
  return value


def _is_default(field: dataclasses.Field, value: Any) -> bool:
  # An array has no truth value, so it must not reach the comparison.
  return (field.default is not dataclasses.MISSING
          and not isinstance(value, np.ndarray) and value == field.default)


def _hash(array: np.ndarray) -> str:
  # By content, so that two maps with equal arrays share one in the file.
  data = np.ascontiguousarray(array)
  # Equal bytes mean different arrays under another dtype or shape.
  head = f"{data.dtype}{data.shape}".encode()
  return hashlib.sha256(head + data.tobytes()).hexdigest()[:16]
