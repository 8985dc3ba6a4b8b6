"""What fields may hold, declared in their annotations; classes that know their fields.

A field is annotated with a type of this module, such as `steps: declare.Chosen = 1000`.
`validate` reads the annotations, and `strict` writes them into the docstring of the
class, so that what is documented is what is checked.
"""

from collections.abc import Callable, Iterator
import dataclasses
import difflib
import functools
import inspect
import re
import reprlib
import types
import typing
from typing import Annotated, Any, Protocol, TypeVar

from transfer_gen import errors

_Class = TypeVar("_Class", bound=type)
_PLAIN = {bool: "True or False", int: "a whole number", float: "a number",
          str: "text", type(None): "None"}

# Counts are i32 in compiled programs and in the arrays of optimizers.
MOST = 2**31 - 1
# Values are f32 in compiled programs. Inside of its range none becomes infinite or 0.
LARGE, SMALL = 1e30, 1e-30


class Rule(Protocol):
  """Part of an annotation: what must hold of a value that has the type.

  Attributes:
    text: How a message ends the sentence "must be a whole number ...". That of a list
      says what type its values have, and needs no "text" before it.
  """
  @property
  def text(self) -> str:
    """What a message says of it."""
    ...

  def holds(self, value: Any) -> bool:
    """Whether a value of the annotated type is allowed."""
    ...


@dataclasses.dataclass(frozen=True)
class Between:
  """Numbers of an interval.

  Attributes:
    least: Its lower end.
    most: Its upper end.
    note: What is said of it beside its ends.
    ends: Brackets, `(` or `)` for an end that is left out.
    also: A number outside that is allowed too, such as 0 for "chosen".
  """
  least: float
  most: float
  note: str = ""
  ends: str = "[]"
  also: int | None = None

  @property
  def text(self) -> str:
    """What a message says of it."""
    # Whole numbers as they are, since `g` keeps six digits.
    least, most = (f"{end:g}" if isinstance(end, float) else f"{end}"
                   for end in (self.least, self.most))
    inside = (f"from {least} to {most}" if self.ends == "[]" else
              f"in {self.ends[0]}{least}, {most}{self.ends[1]}")
    also = "" if self.also is None else f", or {self.also}"
    return f"{inside}{also}" + (f" ({self.note})" if self.note else "")

  # Written as what fits, because every comparison with NaN is False.
  def holds(self, value: Any) -> bool:
    """Whether a number lies inside."""
    if value == self.also:
      return True
    above = value > self.least if self.ends[0] == "(" else value >= self.least
    below = value < self.most if self.ends[1] == ")" else value <= self.most
    return bool(above and below)


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
  """Texts out of a list."""
  values: tuple[str, ...]

  def __init__(self, *values: str):
    object.__setattr__(self, "values", values)

  @property
  def text(self) -> str:
    """What a message says of it."""
    return f"one of {', '.join(value or repr(value) for value in self.values)}"

  def holds(self, value: Any) -> bool:
    """Whether a text is in the list."""
    return value in self.values


@dataclasses.dataclass(frozen=True)
class Holds:
  """Whatever a function says; for what is no interval and no list.

  Attributes:
    test: The function.
    text: What a message says of it.
  """
  test: Callable[[Any], bool]
  text: str

  def holds(self, value: Any) -> bool:
    """Whether the function says so."""
    return self.test(value)


@dataclasses.dataclass(frozen=True)
class FieldsOf:
  """Values by the names of fields of one of several dataclasses.

  Attributes:
    kinds: The dataclasses. A value must fit the field of one of them.
  """
  kinds: tuple[type, ...]

  @property
  def text(self) -> str:
    """What a message says of it."""
    return f"by fields of {', '.join(kind.__name__ for kind in self.kinds)}"

  def holds(self, value: Any) -> bool:
    """Whether a dict may be looked at value by value, as `validate` does."""
    return isinstance(value, dict)


def _compiles(pattern: str) -> bool:
  try:
    re.compile(pattern)
  except (re.error, OverflowError, RecursionError):
    return False
  return True


FILLED = Holds(lambda value: len(value) > 0, "that is not empty")
_PATTERN = Holds(_compiles, "that is a regular expression")
# Names of folders, so that no run of a study can write outside of its workdir.
_FOLDER = Holds(
    lambda name: 0 < len(name) <= 200 and name not in (".", "..") and "/" not in name,
    "that can be the name of a folder, of at most 200 characters")

Count = Annotated[int, Between(0, MOST)]
Number = Annotated[int, Between(1, MOST)]  # At least one.
Chosen = Annotated[int, Between(0, MOST, "0 to have it chosen")]
Seed = Annotated[int, Between(0, 2**32 - 1)]  # NumPy's generators take no others.
Token = Annotated[int, Between(0, MOST)]
NoToken = Annotated[int, Between(-1, MOST)]  # -1 means none, or a default.
Real = Annotated[float, Between(-LARGE, LARGE)]
Weight = Annotated[float, Between(0, LARGE)]
Positive = Annotated[float, Between(SMALL, LARGE)]
Rank = Annotated[int, Between(1, 2**20)]  # Of factors beside kernels.
Share = Annotated[float, Between(0, 1)]
Dropout = Annotated[float, Between(0, 1, ends="[)")]
Decay = Dropout
Filled = Annotated[str, FILLED]
Pattern = Annotated[str, _PATTERN]
Folder = Annotated[str, _FOLDER]


def shown(value: Any) -> str:
  """Returns a value as messages show it: short, whatever it is."""
  try:
    text = repr(value)
  # Such as a number of more digits than Python prints, or an object of the user's.
  except Exception:  # pylint: disable=broad-except
    return f"a {type(value).__name__}"
  return text if len(text) <= 120 else reprlib.repr(text)[1:-1]


def strict(kind: _Class) -> _Class:
  """Makes a dataclass refuse fields that it does not have, and document its ranges.

  Python itself would keep a misspelt attribute beside the fields, and answer a misspelt
  keyword with an error that offers no other name.
  """
  # Libraries that read the types of fields, such as that of the flags, know no rules.
  bare = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    field.type = bare[field.name]
  made = kind.__init__
  names = [field.name for field in dataclasses.fields(kind)]
  needed = {field.name for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING}

  @functools.wraps(made)
  def init(self: Any, *args: Any, **kwargs: Any) -> None:
    for name in kwargs:
      if name not in names:
        raise unknown(kind.__name__, name, names)
    if missing := sorted(needed.difference(kwargs, names[:len(args)])):
      raise errors.UserError(f"{kind.__name__} needs a value for {missing[0]}.")
    made(self, *args, **kwargs)

  def set_field(self: Any, name: str, value: Any) -> None:
    if name not in type(self).__dataclass_fields__:
      raise unknown(type(self).__name__, name, names)
    object.__setattr__(self, name, value)

  owner: Any = kind
  owner.__init__ = init
  owner.__doc__ = inspect.cleandoc(kind.__doc__ or "") + "".join(_ranges(kind))
  # The attributes of a frozen one cannot be set at all.
  if not owner.__dataclass_params__.frozen:
    owner.__setattr__ = set_field
  return kind


def described(hint: Any) -> str:
  """Returns what a hint allows, as messages and docstrings say it."""
  texts = dict.fromkeys(_described(*one) for one in split(hint))
  return " or ".join(texts)


def _described(kind: Any, rules: tuple[Rule, ...]) -> str:
  if kind in _PLAIN:
    text = _PLAIN[kind]
  elif kind is Any:
    text = "a value"
  elif origin := typing.get_origin(kind):
    text = f"a {origin.__name__}"
  elif kind.__module__.startswith("transfer_gen.config"):
    text = f"a config.{kind.__name__}"
  else:
    word = "array" if kind.__name__ == "ndarray" else kind.__name__
    vowel = word[0].lower() in "aeio" or word.startswith("L2")
    text = f"{'an' if vowel else 'a'} {word}"
  listed = any(isinstance(rule, OneOf) for rule in rules)
  return " ".join([*([] if listed else [text]), *(rule.text for rule in rules)])


def _ranges(kind: type) -> Iterator[str]:
  """Yields the end of a docstring: the fields that have rules, with what they say."""
  ruled = {name: hint for name, hint in hints(kind).items()
           if any(rules for _, rules in split(hint)) or typing.get_args(hint)}
  if ruled:
    yield "\n\nValues that are allowed:\n\n"
  for name, hint in ruled.items():
    inner = [one for one in typing.get_args(hint) if one is not ...]
    each = (f", each {described(inner[-1])}"
            if typing.get_origin(hint) in (tuple, dict) else "")
    yield f"* ``{name}``: {described(hint)}{each}.\n"


def unknown(owner: str, name: Any, names: list[str]) -> errors.UserError:
  """Returns the error for a name that is none of the fields of an owner."""
  near = difflib.get_close_matches(str(name), names, n=2)
  return errors.UserError(
      f"{owner} has no field {shown(name)}." + (
          f" Nearest: {', '.join(near)}." if near
          else f" Its fields are {', '.join(names)}."))


@functools.cache
def hints(kind: type) -> dict[str, Any]:
  """Returns the annotations of a dataclass's fields, with their rules.

  A field that is annotated wider than what may be written has its type beside it, as
  `metadata["type"]`.
  """
  found = typing.get_type_hints(kind, include_extras=True)
  return {field.name: field.metadata.get("type", found[field.name])
          for field in dataclasses.fields(kind)}


def split(hint: Any) -> Iterator[tuple[Any, tuple[Rule, ...]]]:
  """Yields each type that a hint allows, with its rules."""
  if typing.get_origin(hint) is Annotated:
    for one, rules in split(hint.__origin__):
      yield one, (*rules, *hint.__metadata__)
  elif isinstance(hint, types.UnionType) or (
      typing.get_origin(hint) is typing.Union):
    for one in typing.get_args(hint):
      yield from split(one)
  else:
    yield hint, ()
