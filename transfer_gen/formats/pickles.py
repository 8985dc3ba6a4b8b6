"""Reads plain data from pickles without running any code.

A pickle is a program for a small stack machine (see `pickletools`), and Python's own
machine calls whatever it names. This one knows plain containers, numbers and texts;
the few names that a caller allows stand for functions of ours, and all else is
refused by name.
"""

from collections.abc import Callable, Mapping
import pickletools
from typing import Any, IO

from transfer_gen import errors

_MARK = object()
_CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK,
}
_VALUES = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "INT", "LONG"))
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(
    program: IO[bytes],
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None,
) -> Any:
  """Returns the value that a pickle describes.

  Args:
    program: A file, positioned at a pickle. Afterwards it is positioned behind it.
    names: What the pickle may name, by `module.name`: values, or functions, which are
      called with plain data and with what `persistent` and other functions returned.
    persistent: Returns the value of a persistent id. If None, the pickle may have none.

  Raises:
    errors.UserError: If it names anything else, or is no pickle.
  """
  machine = _Machine(names, persistent)
  end = False
  # `genops` parses instructions and their arguments and executes none of them.
  for opcode, argument, _ in pickletools.genops(program):
    end = opcode.name == "STOP"
    if not end:
      machine.step(opcode.name, argument)
  if not end or len(machine.stack) != 1:
    raise errors.UserError("its pickle ends in the middle.")
  return machine.stack[0]


class _Machine:
  """The stack machine: a stack and a memo."""

  def __init__(
      self, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
    self.stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._names, self._persistent = names, persistent

  def step(self, name: str, argument: Any) -> None:
    """Executes one instruction."""
    push, pop = self.stack.append, self.stack.pop
    if name in ("PROTO", "FRAME"):
      return
    if name in _CONSTANTS:
      push(_CONSTANTS[name])
    elif name in _VALUES:
      push(argument)
    elif name in _EMPTY:
      push(_EMPTY[name]())
    elif name in _TUPLES:
      count = _TUPLES[name]
      # The last item is on top of the stack.
      push(tuple([pop() for _ in range(count)][::-1]))
    elif name == "TUPLE":
      push(tuple(self._to_mark()))
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
      self._memo[argument] = self.stack[-1]
    elif name == "MEMOIZE":
      # Protocol 4 numbers what it remembers in order, without an argument.
      self._memo[len(self._memo)] = self.stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      push(self._memo[argument])
    elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
      self._extend(name)
    elif name == "GLOBAL":
      push(self._named(argument.replace(" ", ".", 1)))
    elif name == "STACK_GLOBAL":
      attribute, module = pop(), pop()
      push(self._named(f"{module}.{attribute}"))
    elif name == "REDUCE":
      arguments, function = pop(), pop()
      push(self._call(function, arguments))
    elif name == "BINPERSID":
      if self._persistent is None:
        raise errors.UserError("it has a persistent id, and none is allowed here.")
      push(self._persistent(pop()))
    elif name == "BUILD":
      pop()  # Attributes of a container, such as a state dict's _metadata.
    else:
      raise errors.UserError(
          f"its pickle uses {name}, and only tensors and plain containers are read."
          " Save it as safetensors.")

  def _to_mark(self) -> list[Any]:
    """Pops what lies above the last mark, and the mark."""
    above = []
    while (value := self.stack.pop()) is not _MARK:
      above.append(value)
    return above[::-1]

  def _extend(self, name: str) -> None:
    many = name.endswith("S")
    count = 1 if name.startswith("APPEND") else 2
    values = (self._to_mark() if many else
              [self.stack.pop() for _ in range(count)][::-1])
    container = self.stack[-1]
    # Exact types: a subclass could have methods of its own, which a pickle must not
    # reach.
    if count == 1 and type(container) is list:
      container.extend(values)
    elif count == 2 and type(container) is dict and len(values) % 2 == 0:
      container.update(zip(values[::2], values[1::2]))
    else:
      raise errors.UserError(f"its pickle fills a {type(container).__name__}.")

  def _named(self, name: str) -> Any:
    if name not in self._names:
      raise errors.UserError(
          f"its pickle asks for {name[:100]}, and only tensors and plain containers are"
          " read. Save the tensors alone, best as safetensors.")
    return self._names[name]

  def _call(self, function: Any, arguments: Any) -> Any:
    # By identity: `in` would call `==` of whatever a pickle has put on the stack.
    if not any(function is f for f in self._names.values()) or not callable(function):
      raise errors.UserError(
          f"its pickle calls a {type(function).__name__}, which is no function.")
    if type(arguments) is not tuple:
      raise errors.UserError("its pickle calls with no tuple.")
    return function(*arguments)
