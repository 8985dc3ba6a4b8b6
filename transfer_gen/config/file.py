"""A user's config file: loads what it returns, and checks flags that override it."""

import ast
from collections.abc import Mapping, Sequence
import copy
import dataclasses
import difflib
import os
import pathlib
import re
import runpy
import symtable
import tokenize
import traceback
import typing
from typing import Any, TypeVar

from transfer_gen import errors
from transfer_gen.config import models, sources, validate
from transfer_gen.config import run as run_config

_T = TypeVar("_T")
RECIPE = "recipe:"  # How the name of a recipe begins in place of a file's.
_RECIPES = pathlib.Path(__file__).parent.parent / "recipes"
_SOURCE = re.compile(
    r"--?(no)?config\.sources\.(\w+)\.(\w+)(?:=(.*))?", re.DOTALL)
_RUNS = re.compile(r"--?(no)?config\.(all|runs)\.([^=]*)(=.*)?", re.DOTALL)
_MODEL = re.compile(r"--?(no)?config\.model\.(\w+)(?:=(.*))?", re.DOTALL)


def load_run(given: str) -> run_config.Run:
  """Returns what `get_config(ARG)` of a Python file returns.

  Args:
    given: `FILE.py` or `FILE.py:ARG`. Without ARG the function gets no argument.
      Or `recipe:NAME`, a config file of this package.

  Raises:
    errors.UserError: If the file does not exist, raises an error, lacks the function
      or returns something else than a `config.Run` whose fields have their types.
  """
  return _typed(given, "get_config", run_config.Run)


def recipes() -> Mapping[str, pathlib.Path]:
  """Returns the config files that come with this package, by name."""
  return {path.stem: path for path in sorted(_RECIPES.glob("[a-z]*.py"))}


def recipe(name: str) -> pathlib.Path:
  """Returns the config file of a recipe.

  Raises:
    errors.UserError: If there is no such recipe, with the nearest name.
  """
  found = recipes()
  if name not in found:
    near = difflib.get_close_matches(name, found, n=1)
    raise errors.UserError(
        f"{name!r} is not a recipe; there are {', '.join(found)}."
        + (f" Nearest: {near[0]}." if near else ""))
  return found[name]


def take_model_changes(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
  """Takes the flags out that change single fields of `model="source"`.

  The class of the model, and so its fields, is known only when the source is open.

  Args:
    words: Words of a command line.

  Returns:
    Values by field, and the other words.
  """
  changes, rest = {}, []
  for word in words:
    if found := _MODEL.fullmatch(word):
      no, name, value = found.groups()
      changes[name] = not no if value is None else _literal(value)
    else:
      rest.append(word)
  return changes, rest


def take_sources(run: run_config.Run, words: Sequence[str]) -> list[str]:
  """Sets fields of named sources, `--config.sources.NAME.FIELD=VALUE`.

  A name that the config does not have adds a source. Values that a field does not
  declare are found by `validate.check`.

  Args:
    run: The run, whose `sources` are changed.
    words: Words of a command line.

  Returns:
    The other words.

  Raises:
    errors.UserError: If a source has no such field, with the nearest names.
  """
  rest = []
  for word in words:
    found = _SOURCE.fullmatch(word)
    if found is None:
      rest.append(word)
      continue
    no, name, field, value = found.groups()
    source = run.sources.get(name, sources.Source())
    _check_field(word.partition("=")[0], source, f"config.sources.{name}", field)
    text = isinstance(getattr(source, field), str)
    changes: dict[str, Any] = {
        field: not no if value is None else value if text else _literal(value)}
    run.sources[name] = dataclasses.replace(source, **changes)
  return rest


def has_study(given: str) -> bool:
  """Whether a config file defines `get_study`; False if it cannot be read."""
  file = given.partition(":")[0]
  if given.startswith(RECIPE) or not os.path.isfile(file):
    return False
  try:
    with tokenize.open(file) as code:
      names = symtable.symtable(code.read(), file, "exec")
  except (SyntaxError, ValueError):  # Loading it will say what is wrong.
    return True
  # Also by an import, or as what another function returned.
  return any(one.get_name() == "get_study" and (one.is_assigned() or one.is_imported())
             for one in names.get_symbols())


def load_study(given: str) -> run_config.Study:
  """Returns what `get_study(ARG)` of a Python file returns; see `load_run`.

  Raises:
    errors.UserError: As `load_run`, also if the study has nothing to compare.
  """
  _refuse_twice(given.partition(":")[0])
  return _typed(given, "get_study", run_config.Study)


def take_runs(
    study: run_config.Study, words: Sequence[str]
) -> tuple[run_config.Study, dict[str, list[str]], list[str]]:
  """Takes the flags out that override fields of the runs of a study.

  Args:
    study: The study.
    words: Words of a command line: `--config.runs.NAME.FIELD=VALUE` for one run, and
      `--config.all.FIELD=VALUE` for all of them. Of equal fields the last word counts.

  Returns:
    The study with copies of its runs, which may be changed; by name of a run the words
    `--config.FIELD=VALUE`; and the other words.

  Raises:
    errors.UserError: If there is no such run, or a word overrides something else.
  """
  # Two runs may be one object, or share a part.
  study = dataclasses.replace(
      study, runs={name: copy.deepcopy(run) for name, run in study.runs.items()})
  mine: dict[str, list[str]] = {}
  rest: list[str] = []
  for word in words:
    found = _RUNS.fullmatch(word)
    if found is None:
      if re.match(r"--?(no)?config\.", word):
        raise errors.UserError(
            f"{word.partition('=')[0]}: of a study only its runs can be overridden:"
            " --config.runs.NAME.FIELD=VALUE, or --config.all.FIELD=VALUE for all.")
      rest.append(word)
      continue
    no, which, path, value = found.groups()
    # A name may hold dots, and may begin another one.
    names = [name for name in study.runs if path.startswith(f"{name}.")]
    names = [*study.runs] if which == "all" else sorted(names, key=len)[-1:]
    if not names:
      raise errors.UserError(
          f"{word.partition('=')[0]}: it begins with none of the runs"
          f" {', '.join(study.runs)}.")
    field = path if which == "all" else path[len(names[0]) + 1:]
    for name in names:
      mine.setdefault(name, []).append(f"--{no or ''}config.{field}{value or ''}")
  return study, mine, rest


def _refuse_twice(file: str) -> None:
  """Refuses a file with a dict that names something twice: Python keeps one of them."""
  try:
    tree = ast.parse(pathlib.Path(file).read_bytes())
  except (OSError, SyntaxError, ValueError):
    return  # Loading it will say what is wrong.
  for node in ast.walk(tree):
    keys = [key for key in node.keys if isinstance(key, ast.Constant)] if (
        isinstance(node, ast.Dict)) else []
    values = [key.value for key in keys]
    for key in keys:
      if values.count(key.value) > 1:
        raise errors.UserError(
            f"--config: {file}:{key.lineno}: {key.value!r} stands twice in a dict, and"
            " only one of both would count. Give each run a name of its own.")


# A word `--noconfig.a.b` is how absl spells False for a boolean field. Flags that do
# not begin with config are left to absl, which alone can know whether they exist.
def build_parts(run: run_config.Run, words: Sequence[str]) -> None:
  """Builds parts of a run that are None and of which flags set a field.

  So `--config.encoder_tokenizer.kind=bytes` needs no `Tokenizer` in the config file.
  Fields without a flag then have their defaults.
  """
  hints = typing.get_type_hints(type(run))
  for word in words:
    found = re.match(r"--?(?:no)?config\.(\w+)\.", word)
    if found is None or getattr(run, found[1], run) is not None:
      continue
    kinds = [kind for kind in typing.get_args(hints[found[1]])
             if dataclasses.is_dataclass(kind)]
    if len(kinds) == 1:
      setattr(run, found[1], kinds[0]())


def check_overrides(config: Any, words: Sequence[str]) -> None:
  """Refuses flags `--config.a.b=VALUE` that name no value of a config.

  Args:
    config: A dataclass, with other dataclasses as fields.
    words: Words of a command line; those that override nothing are passed over.

  Raises:
    errors.UserError: If a field does not exist, with the nearest names, or holds
      fields of its own.
  """
  for word in words:
    flag = word.partition("=")[0]
    path = flag.lstrip("-").removeprefix("no")
    if not word.startswith("-") or not path.startswith("config."):
      continue
    node, walked = config, "config"
    for part in path.split(".")[1:]:
      _check_field(flag, node, walked, part)
      hint = typing.get_type_hints(type(node))[part]
      node, walked = getattr(node, part), f"{walked}.{part}"
      # No text stands for a plan or a dict.
      if isinstance(node, dict) or (
          hint is Any and not isinstance(node, models.Model)):
        raise errors.UserError(
            f"{flag}: a flag cannot change {walked}. Change it in the config file.")
    if dataclasses.is_dataclass(node):
      raise errors.UserError(
          f"{flag}: {walked} is not a single value. Override one of its fields:"
          f" {', '.join(_fields(node))}.")


# Types are checked as soon as the file is loaded: a text in place of a number would
# otherwise fail deep in a run, in a message that names no field.
def _typed(given: str, function: str, wanted: type[_T]) -> _T:
  value = _call(given, function)
  if not isinstance(value, wanted):
    raise errors.UserError(
        f"--config: {function} of {given} returned a value of type"
        f" {type(value).__name__}, and must return a transfer_gen.config."
        f"{wanted.__name__}.")
  validate.check(value)
  return value


def _literal(text: str) -> Any:
  """Returns a number, truth value or tuple that a text spells, or else the text."""
  try:
    return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
  except (ValueError, SyntaxError):
    return text


def _call(given: str, function: str) -> Any:
  if given.startswith(RECIPE):
    given = str(recipe(given.removeprefix(RECIPE)))
  file, _, arg = given.partition(":")
  if not os.path.isfile(file):
    raise errors.UserError(f"--config: there is no file {file}.")
  try:
    # `runpy` and not an import: the file may stand anywhere, need not be named as
    # modules are, and leaves nothing behind in `sys.modules`.
    module = runpy.run_path(file)
    if function not in module:
      made = {"get_config": "Run", "get_study": "Study"}[function]
      other = "" if "get_study" not in module else (
          " It has get_study, which is for `transfer-gen study`.")
      raise errors.UserError(
          f"--config: {file} has no function {function}.{other} Define one that returns"
          f" a transfer_gen.config.{made}.")
    return module[function](*([arg] if arg else []))
  except errors.UserError:
    raise
  except (Exception, SystemExit) as error:  # User code may raise anything.
    raise errors.UserError(_failure(error, file, arg)) from error


def _failure(error: BaseException, file: str, arg: str) -> str:
  """Describes an error that a config file raised, with its line in that file."""
  # The last frame in the user's file: deeper ones belong to libraries that it called.
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == file]
  if isinstance(error, SyntaxError) and error.filename == file:
    lines = [error.lineno]  # A file that does not compile has no frame.
  at = f" at line {lines[-1]}" if lines else ""
  # Files often look the argument up in a dict, so a missing key that equals it is
  # almost certainly a mistyped argument.
  if isinstance(error, KeyError) and error.args == (arg,):
    return (f"--config: {file} does not accept the argument {arg!r} (KeyError{at})."
            " The file says what may follow the colon.")
  return f"--config: {file} failed{at}: {type(error).__name__}: {error}"


def _check_field(flag: str, node: Any, walked: str, part: str) -> None:
  names = _fields(node)
  if part in names:
    return
  if node is None:
    raise errors.UserError(
        f"{flag}: {walked} is None, so it has no field to override. Set {walked} in the"
        " config file first.")
  near = difflib.get_close_matches(part, names, n=2)
  nearest = (f" Nearest: {', '.join(near)}." if near
             else f" Its fields are {', '.join(names)}." if names else "")
  raise errors.UserError(f"{flag}: {walked} has no field {part!r}.{nearest}")


def _fields(node: Any) -> list[str]:
  return ([field.name for field in dataclasses.fields(node)]
          if dataclasses.is_dataclass(node) else [])
