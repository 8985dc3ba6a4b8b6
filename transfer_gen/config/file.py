"""A user's config file: what it returns, and which overrides fit."""

from collections.abc import Sequence
import dataclasses
import difflib
import os
import runpy
import traceback
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors


def call(given: str, function: str) -> Any:
  """`function(ARG)` of the Python file in `F.py[:ARG]`.

  Raises:
    errors.UserError: If the file is not there, fails, or lacks the function.
  """
  file, _, arg = given.partition(":")
  if not file:
    raise errors.UserError("--config= is missing: the experiment's Python file.")
  if not os.path.isfile(file):
    raise errors.UserError(f"--config: there is no file {file}.")
  try:
    module = runpy.run_path(file)
    if function not in module:
      raise errors.UserError(f"--config: {file} has no {function}(arg).")
    return module[function](*([arg] if arg else []))
  except errors.UserError:
    raise
  except Exception as error:  # The user's own code, whatever it raises.
    at = [f"line {frame.lineno}" for frame in
          traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError):
      at = [f"line {error.lineno}"]
    if isinstance(error, KeyError) and error.args == (arg,):
      raise errors.UserError(
          f"--config: {file} knows no {arg!r} (at {at[-1]}). What may stand behind the"
          f" colon is said in {file}.") from error
    raise errors.UserError(
        f"--config: {file} fails{' at ' + at[-1] if at else ''}:"
        f" {type(error).__name__}: {error}") from error


def check_overrides(config: Any, words: Sequence[str]) -> None:
  """Finds flags `--config.a.b=V` that name no field of a config.

  Raises:
    errors.UserError: With the nearest names.
  """
  for word in words:
    key = word.lstrip("-").partition("=")[0]
    if not word.startswith("-") or not key.startswith("config."):
      continue
    node, walked = config, "config"
    for part in key.split(".")[1:]:
      names = ([field.name for field in dataclasses.fields(node)]
               if dataclasses.is_dataclass(node) else [])
      if part not in names:
        near = difflib.get_close_matches(part, names, n=2) or names
        told = f"; there is {', '.join(near)}" if near else ""
        raise errors.UserError(f"--{key}: {walked} has no field {part!r}{told}.")
      node, walked = getattr(node, part), f"{walked}.{part}"
    if dataclasses.is_dataclass(node):
      raise errors.UserError(f"--{key}: is not a value; override its fields.")


def typed(value: Any, kind: str) -> Any:
  """The value, if it is of the type of `transfer_gen.config` that is wanted.

  Raises:
    errors.UserError: If it is of another.
  """
  if not isinstance(value, getattr(config_lib, kind)):
    raise errors.UserError(
        f"--config: the file returned a {type(value).__name__}, wanted a"
        f" transfer_gen.config.{kind}.")
  return value
