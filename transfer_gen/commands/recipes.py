"""`transfer-gen recipes`: lists config files for common jobs, shows or copies one."""

import ast
from collections.abc import Iterator
import dataclasses
import pathlib
import textwrap
from typing import Any

from transfer_gen import errors
from transfer_gen.commands import flags
from transfer_gen.config import file as config_file
from transfer_gen.config import run as run_config

_WIDTH = 100


def run(values: flags.Values) -> None:
  """Lists all recipes, prints the fields of one, or writes it as a file to edit."""
  if not values.argument:
    if values.copy:
      raise errors.UserError("`recipes --copy` needs a name: recipes NAME --copy=FILE.")
    for name, path in config_file.recipes().items():
      print(f"{name:16}{_about(path).partition(chr(10))[0]}")
    print("\n`transfer-gen recipes NAME` prints the fields of one. Use it as"
          " --config=recipe:NAME.")
    return
  path = config_file.recipe(values.argument)
  if values.copy:
    _copy(path, pathlib.Path(values.copy))
  else:
    print(_about(path).strip() + "\n")
    print("\n".join(_fields(config_file.load_run(config_file.RECIPE + path.stem))))


def _about(path: pathlib.Path) -> str:
  return ast.get_docstring(ast.parse(path.read_text())) or ""


def _copy(recipe: pathlib.Path, file: pathlib.Path) -> None:
  if file.exists():
    raise errors.UserError(f"--copy: {file} exists already. Give another name.")
  file.write_text(recipe.read_text())
  print(f"{file}: edit it, and use it as --config={file}.")


def _fields(value: Any, prefix: str = "") -> Iterator[str]:
  """Yields a line for each field that a flag can override, with its value."""
  opened = {".".join(name): value for name, value in run_config.OPEN.items()}
  for field in dataclasses.fields(value):
    name, found = f"{prefix}{field.name}", getattr(value, field.name)
    if dataclasses.is_dataclass(found):
      yield from _fields(found, f"{name}.")
    elif callable(found):
      yield f"{name}: the function `{found.__name__}` of the file"
    else:
      chosen = "  (chosen from data and devices)" * (
          name in opened and found == opened[name])
      yield from textwrap.wrap(f"{name}={found!r}{chosen}", _WIDTH)
