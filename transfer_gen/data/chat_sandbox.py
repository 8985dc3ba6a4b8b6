"""Jinja's sandbox with bounds: no template runs for long, or fills the memory.

Templates come with checkpoints of strangers. Jinja's own sandbox keeps them from
Python; here each loop, call and filter also costs as many steps as the values that it
is given have parts, and what would make a long text is refused before it is made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import functools
import re
from typing import Any

from jinja2 import nodes
from jinja2 import sandbox
from jinja2 import visitor

_LONG = 1000  # Largest number that a filter or a method is given, and length of a text.
_BITS = 4096  # Of a number.
_LOOP = 32  # Steps.
_WIDE = re.compile(r"\*|\{[^}]*\{|\d{4}")  # What makes a text of any width in a format.
# Filters and methods that make nothing longer of numbers and texts that they are given.
_HARMLESS = {
    "count", "d", "default", "endswith", "find", "float", "get", "index", "int", "map",
    "reject", "rejectattr", "removeprefix", "removesuffix", "rfind", "rsplit", "select",
    "selectattr", "split", "startswith", "strip", "sum", "truncate"}
_ENDLESS = {"translate", "lipsum", "format_map"}


class Environment(sandbox.ImmutableSandboxedEnvironment):
  """An environment whose templates have a number of steps, and texts a length."""
  intercepted_binops = frozenset({"*", "**", "+", "%"})

  def __init__(self, filters: Mapping[str, Callable[..., Any]], **how: Any):
    """Initializes from filters beside Jinja's own, and its arguments."""
    super().__init__(**how)
    self.limit = self._left = 0
    self.finalize = self.checked
    self.concat = self.joined  # pyrefly: ignore[bad-assignment]
    self.filters = {
        name: self._counted(name, made) for name, made in (
            self.filters | dict(filters)).items()}
    own: dict[str, Any] = {"range": self.numbers}
    self.globals = {name: own.get(name, made) for name, made in self.globals.items()
                    if name not in _ENDLESS}

  def begin(self, limit: int, steps: int) -> None:
    """Begins a text of at most `limit` characters, to be made in so many steps."""
    self.limit, self._left = limit, steps

  def step(self, count: int = _LOOP) -> str:
    """Counts steps, by default those of a loop or a call; returns an empty text.

    Raises:
      sandbox.SecurityError: If there were too many.
    """
    self._left -= count
    if self._left < 0:
      raise sandbox.SecurityError("it takes too many steps")
    return ""

  def checked(self, value: Any) -> Any:
    """Returns a value that is to be written, unless it has too many parts."""
    if not isinstance(value, (str, int, float)):
      self._pass(value)
    return value

  def size(self, value: Any) -> int:
    """Returns the number of characters and elements of a value, or a larger one."""
    total, inside = 0, [value]
    while inside and total <= self.limit:
      one = inside.pop()
      total += 1
      if isinstance(one, (str, range)):
        total += len(one)
      elif isinstance(one, Mapping):
        inside += [*one, *one.values()]
      elif isinstance(one, (list, tuple, set, frozenset)):
        inside += one
    return total

  def joined(self, parts: Iterable[Any]) -> str:
    """Joins texts, unless they are too long together."""
    found, total = [], 0
    for part in parts:
      found.append(str(self.checked(part)))
      total += len(found[-1])
      self._fit(total)
    return "".join(found)

  def numbers(self, *ends: int) -> range:
    """Returns a range, which costs its length."""
    found = sandbox.safe_range(*ends)
    self.step(len(found))
    return found

  def call_binop(
      self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """Computes, unless the result is too large."""
    numbers = [one for one in (left, right) if isinstance(one, (int, float))]
    if len(numbers) == 2:
      bits = [one.bit_length() if isinstance(one, int) else 1 for one in numbers]
      if max(bits) > _BITS or operator == "**" and abs(right) > 64:
        raise sandbox.SecurityError(f"{operator} is for small numbers only")
    elif operator == "%":
      self._check_format(left, right)
    elif operator == "+":
      self._fit(self._pass(left) + self._pass(right))
    elif operator == "*" and numbers:  # How often a text or a list is repeated.
      self._fit(self._pass(right if numbers[0] is left else left) * int(numbers[0]))
    else:
      raise sandbox.SecurityError(f"{operator} is for small numbers only")
    return super().call_binop(context, operator, left, right)

  def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a method or a macro, unless what it makes may be too long."""
    # Jinja itself wraps `format`.
    owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
    if isinstance(owner, (str, list, dict)):
      args = self._listed(args)
      self._check(obj.__name__, (owner, *args), kwargs)
    return super().call(context, obj, *args, **kwargs)

  def _parse(
      self, source: str, name: str | None, filename: str | None) -> nodes.Template:
    tree = super()._parse(source, name, filename)
    steps = nodes.EnvironmentAttribute("step")
    for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
      body: list[nodes.Node] = node.body  # pyrefly: ignore[missing-attribute]
      body.insert(0, nodes.ExprStmt(
          nodes.Call(steps, [], [], None, None), lineno=node.lineno))
    return _Concatenations().visit(tree)

  def _counted(self, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(made)
    def filtered(*args: Any, **kwargs: Any) -> Any:
      # Some are given the environment or the context first.
      first = args[:1] if hasattr(made, "jinja_pass_arg") else ()
      own = self._listed(args[len(first):])
      self._check(name, own, kwargs)
      return made(*first, *own, **kwargs)
    return filtered

  def _listed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns arguments with lists for what other filters yield one by one."""
    return tuple([self.checked(one) for one in arg] if isinstance(arg, Iterator)
                 else arg for arg in args)

  def _check(self, name: str, args: tuple[Any, ...], more: Mapping[str, Any]) -> None:
    """Checks what a filter or a method is given; the first is what it works on."""
    for one in (*args, *more.values()):
      self._pass(one)
    text = args[0] if args and isinstance(args[0], str) else ""
    given = [*args[1:], *more.values()]
    numbers = [one for one in given if isinstance(one, (int, float))]
    if name in _HARMLESS:
      return
    if name in _ENDLESS or any(abs(one) > _LONG for one in numbers):
      raise sandbox.SecurityError(f"{name} may make a long text")
    if name == "format":
      self._check_format(text, given)
    elif name == "replace":
      old, new = (*map(str, given), "", "")[:2]
      self._fit(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    elif name == "join":
      # The method is given the parts, and the filter what goes between them.
      parts, between = args[0], "".join(map(str, given[:1]))
      if isinstance(parts, str) and isinstance(args[-1], (list, tuple)):
        parts, between = args[-1], parts
      self._fit(self.size(parts) + len(parts) * len(between))
    elif any(isinstance(one, str) and len(one) > _LONG for one in given):
      raise sandbox.SecurityError(f"{name} may make a long text")

  def _check_format(self, form: Any, values: Any) -> None:
    if not isinstance(form, str) or _WIDE.search(form):
      raise sandbox.SecurityError("a format may make a long text")
    # A place may name any of the values, and several may name the same.
    places = form.count("%") + form.count("{")
    self._fit(len(form) + places * self._pass(values))

  def _pass(self, value: Any) -> int:
    """Counts the parts of a value, at any depth, as steps; returns their number."""
    size = self.size(value)
    self._fit(size)
    self.step(size)
    return size

  def _fit(self, length: int) -> None:
    if length > self.limit:
      raise sandbox.SecurityError("it makes a long text")


class _Concatenations(visitor.NodeTransformer):
  """Lets the environment join what a template writes with ~."""

  def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
    parts = [self.visit(part) for part in node.nodes]
    return nodes.Call(nodes.EnvironmentAttribute("joined"), [nodes.List(parts)], [],
                      None, None, lineno=node.lineno)
