"""Measures the structure of the package: imports, sizes and signatures.

`python -m tests.house` prints the numbers as one line of JSON; `tests/imports_test.py`
checks limits with the same functions.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import pathlib
import statistics

PACKAGE = pathlib.Path(__file__).parent.parent / "transfer_gen"
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules() -> Mapping[str, pathlib.Path]:
  """Returns the files of the package by module name, without empty ones.

  The name of `transfer_gen/train/step.py` is `train.step`, that of
  `transfer_gen/sources/__init__.py` is `sources`.
  """
  found = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if path.read_text().strip():
      found[name.removesuffix(".__init__")] = path
  return found


@functools.cache
def imports(name: str) -> frozenset[str]:
  """Returns the modules of the package that a module imports anywhere in its file."""
  return frozenset(found for found in _imported(name) if found in modules())


@functools.cache
def libraries(name: str) -> frozenset[str]:
  """Returns the top-level names of other packages that a module imports."""
  return frozenset(
      found.split(".")[0] for found in _imported(name) if found not in modules())


def package(name: str) -> str:
  """Returns the folder of a module, or "" for modules beside the folders."""
  root = name.split(".")[0]
  return root if (PACKAGE / root).is_dir() else ""


def is_folder(name: str) -> bool:
  """Returns whether a module is the `__init__.py` of a folder."""
  return modules()[name].name == "__init__.py"


def functions(name: str) -> Iterator[tuple[str, _Function, bool]]:
  """Yields the qualified name and node of each function, and whether it is public."""
  yield from _functions(ast.parse(modules()[name].read_text()), "", True)


def body_lines(function: _Function) -> int:
  """Returns the number of lines of a function's body, without its docstring."""
  body = function.body
  first = body[0]
  if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and (
      isinstance(first.value.value, str)):
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def annotated(function: _Function) -> bool:
  """Returns whether the result and all arguments but self and cls are annotated."""
  arguments = function.args
  named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
           *filter(None, (arguments.vararg, arguments.kwarg))]
  complete = all(argument.annotation is not None for argument in named
                 if argument.arg not in ("self", "cls"))
  return complete and (function.returns is not None or function.name == "__init__")


def cycles(edges: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
  """Returns the groups of nodes that reach each other, each in sorted order."""
  reach = {node: _reachable(node, edges) for node in edges}
  groups = {
      tuple(sorted({node, *(
          other for other in reach[node] if node in reach.get(other, ()))}))
      for node in edges}
  return sorted(group for group in groups if len(group) > 1)


def package_edges() -> dict[str, frozenset[str]]:
  """Returns the folders that each folder imports."""
  found: dict[str, set[str]] = {}
  for name in modules():
    mine = package(name)
    theirs = {package(other) for other in imports(name)} - {mine, ""}
    if mine:
      found.setdefault(mine, set()).update(theirs)
  return {name: frozenset(others) for name, others in found.items()}


def numbers() -> dict[str, float]:
  """Returns the measures by name; p90 is the value at the nearest rank above 0.9."""
  lines = [len(path.read_text().splitlines()) for path in modules().values()]
  fan_outs = [len(imports(name)) for name in modules()]
  every = [(function, public) for name in modules()
           for _, function, public in functions(name)]
  bodies = [size for function, _ in every if (size := body_lines(function))]
  public = [function for function, is_public in every if is_public]
  return {
      "modules": len(lines), "lines": sum(lines),
      "file_median": statistics.median(lines), "file_p90": _p90(lines),
      "file_max": max(lines),
      "fan_out_p90": _p90(fan_outs), "fan_out_max": max(fan_outs),
      "fan_out_over_6": sum(n > 6 for n in fan_outs),
      "fan_out_over_8": sum(n > 8 for n in fan_outs),
      "module_cycles": len(cycles({name: imports(name) for name in modules()})),
      "package_cycles": len(cycles(package_edges())),
      "body_p90": _p90(bodies), "body_max": max(bodies),
      "imports_in_functions": sum(map(_imports_inside, modules())),
      "public_annotated": sum(map(annotated, public)) / len(public),
      "comments": sum(map(_comments, modules())) / sum(lines),
  }


def _imported(name: str) -> Iterator[str]:
  for node in ast.walk(ast.parse(modules()[name].read_text())):
    if isinstance(node, ast.ImportFrom):
      if not node.module.startswith("transfer_gen"):
        yield node.module
        continue
      parent = node.module.removeprefix("transfer_gen").lstrip(".")
      for alias in node.names:
        found = f"{parent}.{alias.name}".lstrip(".")
        yield found if found in modules() else parent
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def _functions(node: ast.AST, prefix: str, public: bool):
  for child in ast.iter_child_nodes(node):
    if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
      shown = child.name == "__init__" or not child.name.startswith("_")
      yield f"{prefix}{child.name}", child, public and shown
      yield from _functions(child, f"{prefix}{child.name}.", False)
    elif isinstance(child, ast.ClassDef):
      shown = public and not child.name.startswith("_")
      yield from _functions(child, f"{prefix}{child.name}.", shown)
    else:
      yield from _functions(child, prefix, public)


def _reachable(start: str, edges: Mapping[str, frozenset[str]]) -> set[str]:
  found, ahead = set(), [start]
  while ahead:
    for other in edges.get(ahead.pop(), ()):
      if other not in found:
        found.add(other)
        ahead.append(other)
  return found


def _imports_inside(name: str) -> int:
  return sum(isinstance(node, (ast.Import, ast.ImportFrom))
             for _, function, _ in functions(name) for node in ast.walk(function))


def _comments(name: str) -> int:
  return sum("#" in line and not line.strip().startswith(('"', "'")) and (
      line.strip().startswith("# ") or "  # " in line)
             for line in modules()[name].read_text().splitlines())


def _p90(values: Sequence[int]) -> int:
  values = sorted(values)
  return values[min(len(values) - 1, int(0.9 * len(values)))]


if __name__ == "__main__":
  print(json.dumps({name: round(value, 4) for name, value in numbers().items()}))
