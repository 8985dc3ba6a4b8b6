"""Checks that the fields of a config hold what they are declared with."""

from collections.abc import Iterator, Sequence
import difflib
import numbers
import re
import typing
from typing import Any

from transfer_gen import errors
from transfer_gen.config import declare


# Python checks no annotations, and values come from files of users and from flags. All
# misfits are listed at once, so that a config is corrected in one go.
def check(config: Any, name: str = "config") -> None:
  """Refuses a config with values that its fields do not declare.

  Args:
    config: A dataclass whose annotations `declare` understands.
    name: What the messages call it.

  Raises:
    errors.UserError: With every field that has a wrong value.
  """
  if misfits := list(_fields(config, name)):
    raise errors.UserError(
        misfits[0] if len(misfits) == 1 else
        "\n  ".join([f"{len(misfits)} values do not fit:", *misfits]))


def _fields(config: Any, name: str) -> Iterator[str]:
  hints = declare.hints(type(config))
  # `strict` refuses such a name already; a copy that was made otherwise may have it.
  for extra in sorted(vars(config).keys() - hints.keys()):
    yield str(declare.unknown(name, extra, list(hints)))
  for field, hint in hints.items():
    yield from _misfits(getattr(config, field), hint, f"{name}.{field}")


# `tuple[X, ...]` has one type for all elements, `tuple[X, Y]` one for each.
# A frozen dataclass was checked when it was made, and is not walked again.
def _misfits(value: Any, hint: Any, name: str) -> Iterator[str]:
  fitting = [(kind, rules) for kind, rules in declare.split(hint)
             if _fits(value, kind) and all(rule.holds(value) for rule in rules)]
  if isinstance(value, str) and not _is_plain(value):
    yield (f"{name} is {declare.shown(value)}, which is not UTF-8 or has a zero"
           " character. If it is a path, rename it, or give a link to it.")
    return
  if not fitting:
    yield (f"{name} is {declare.shown(value)}, must be {declare.described(hint)}."
           f"{_nearest(value, hint)}")
    return
  kind, rules = fitting[0]
  if of := [rule for rule in rules if isinstance(rule, declare.FieldsOf)]:
    yield from _changes(value, of[0].kinds, name)
  elif typing.get_origin(kind) is tuple:
    inner = typing.get_args(kind)
    inner = inner[:1] * len(value) if inner[1:] == (...,) else inner
    if len(inner) != len(value):
      yield f"{name} is {declare.shown(value)}, must have {len(inner)} elements."
    for i, (element, hint_) in enumerate(zip(value, inner)):
      yield from _misfits(element, hint_, f"{name}[{i}]")
  elif typing.get_origin(kind) is dict:
    of_keys, of_values = typing.get_args(kind)
    for key, element in value.items():
      yield from _misfits(key, of_keys, f"{name}: the name {declare.shown(key)}")
      yield from _misfits(element, of_values, f"{name}[{declare.shown(key)}]")
  elif _is_open(value) and kind is not Any:
    yield from _fields(value, name)


def _is_plain(text: str) -> bool:
  """Whether a text can be stored, and be the name of a file."""
  # Python has halves of characters where a file's name is not UTF-8.
  return not re.search("[\0\ud800-\udfff]", text)


def _nearest(value: Any, hint: Any) -> str:
  """Returns a sentence with what a value may be meant for: of a list, or a number."""
  if (isinstance(value, numbers.Integral) and abs(int(value)) > declare.MOST
      and any(kind is float for kind, _ in declare.split(hint))):
    return f" Above {declare.MOST}, write it as a real number, such as 1e10."
  listed = [text for _, rules in declare.split(hint) for rule in rules
            if isinstance(rule, declare.OneOf) for text in rule.values]
  near = difflib.get_close_matches(value, listed, 1) if isinstance(value, str) else []
  return f" Nearest: {near[0]}." if near else ""


def _changes(
    changes: dict[str, Any], kinds: Sequence[type], name: str) -> Iterator[str]:
  """Yields what is wrong with values by the names of fields of some dataclasses."""
  hints: dict[str, list[Any]] = {}
  for kind in kinds:
    for field, hint in declare.hints(kind).items():
      hints.setdefault(field, []).append(hint)
  for field, value in changes.items():
    if field not in hints:
      yield str(declare.unknown(name, field, list(hints)))
      continue
    # Which of them it is shows later, so a value of any is taken here.
    found = [[*_misfits(value, hint, f"{name}[{field!r}]")] for hint in hints[field]]
    yield from [] if [] in found else found[0]


def _is_open(value: Any) -> bool:
  """Whether a value is a dataclass whose fields can be set."""
  params = getattr(value, "__dataclass_params__", None)
  return params is not None and not params.frozen


# NumPy's numbers are as good as Python's, and a whole number is as good as a real one.
def _fits(value: Any, kind: Any) -> bool:
  """Whether a value is of a type, whatever its elements or fields are."""
  if kind is Any:
    return True
  # A truth value is an int to Python, and where a number is wanted it is a mistake.
  if kind in (int, float) and isinstance(value, bool):
    return False
  if kind is int:
    return isinstance(value, numbers.Integral)
  if kind is float:
    # Compiled programs compute with whole numbers as i32, and with no fractions.
    return (abs(int(value)) <= declare.MOST if isinstance(value, numbers.Integral)
            else isinstance(value, numbers.Real)
            and not isinstance(value, numbers.Rational))
  if kind is str:
    return isinstance(value, str) and _is_plain(value)
  if getattr(kind, "_is_protocol", False):
    wanted = [name for name in vars(kind) if not name.startswith("_")]
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in wanted)
  origin = typing.get_origin(kind) or kind
  # Config files may spell a tuple as a list.
  return isinstance(value, (tuple, list) if origin is tuple else origin)
