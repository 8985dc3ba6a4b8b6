"""Checks that the fields of a config have the types that they are declared with."""

from collections.abc import Iterator
import dataclasses
import numbers
import types
import typing
from typing import Any

from transfer_gen import errors
from transfer_gen.config import models

# NumPy's numbers are as good as Python's, and a whole number is as good as a real one.
_PLAIN = {bool: (bool, "True or False"), int: (numbers.Integral, "a whole number"),
          float: (numbers.Real, "a number"), str: (str, "text"),
          type(None): (type(None), "None")}


# Python checks no annotations, and values come from files of users and from flags. All
# misfits are listed at once, so that a config is corrected in one go.
def check(config: Any, name: str = "config") -> None:
  """Refuses a config with values of other types than its fields declare.

  The fields of a model are left to `models.registry.build`, which also converts them.

  Args:
    config: A dataclass of `transfer_gen.config`.
    name: What the messages call it.

  Raises:
    errors.UserError: With every field that has the wrong type.
  """
  if misfits := list(_fields(config, name)):
    raise errors.UserError(
        "\n  ".join(["The config has values of the wrong type:", *misfits]))


def _fields(config: Any, name: str) -> Iterator[str]:
  hints = typing.get_type_hints(type(config))
  for field in dataclasses.fields(config):
    # A field that is annotated wider than what may be written has its type beside it.
    hint = field.metadata.get("type", hints[field.name])
    yield from _misfits(getattr(config, field.name), hint, f"{name}.{field.name}")


# `tuple[X, ...]` has one type for all elements, `tuple[X, Y]` one for each.
# `Run.transfer` is Any, so a plan, which is a dataclass too, is not walked here: its
# classes check their own fields.
def _misfits(value: Any, hint: Any, name: str) -> Iterator[str]:
  hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  fitting = next((h for h in hints if _fits(value, h)), None)
  if fitting is None:
    yield (f"{name} is {value!r}, must be"
           f" {' or '.join(dict.fromkeys(map(_described, hints)))}.")
  elif typing.get_origin(fitting) is tuple:
    inner = typing.get_args(fitting)
    inner = inner[:1] * len(value) if inner[1:] == (...,) else inner
    if len(inner) != len(value):
      yield f"{name} is {value!r}, must have {len(inner)} elements."
    for i, (element, hint_) in enumerate(zip(value, inner)):
      yield from _misfits(element, hint_, f"{name}[{i}]")
  elif typing.get_origin(fitting) is dict:
    for key, element in value.items():
      yield from _misfits(element, typing.get_args(fitting)[1], f"{name}[{key!r}]")
  elif dataclasses.is_dataclass(value) and fitting is not Any:
    if not isinstance(value, (models.Decoder, models.EncoderDecoder, models.Recurrent)):
      yield from _fields(value, name)


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value is of a type, whatever its elements or fields are."""
  if hint is Any:
    return True
  if hint in _PLAIN:
    return isinstance(value, _PLAIN[hint][0])
  origin = typing.get_origin(hint) or hint
  # Config files may spell a tuple as a list.
  return isinstance(value, (tuple, list) if origin is tuple else origin)


def _described(hint: Any) -> str:
  if hint in _PLAIN:
    return _PLAIN[hint][1]
  if origin := typing.get_origin(hint):
    return f"a {origin.__name__}"
  return f"a config.{hint.__name__}"
