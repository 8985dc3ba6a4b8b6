"""The one door to absl flags: the words behind a command become typed values."""

from collections.abc import Callable, Mapping, Sequence
import os
import re
import types
from typing import Any

from absl import flags
from ml_collections import config_flags

from transfer_gen import errors
from transfer_gen import remote
from transfer_gen.commands import declarations
from transfer_gen.config import file as config_file
from transfer_gen.config import validate

# By the exact type of a default: a bool is an int, too.
_PATHS = ("DIR", "FILE", "PATH")  # How values of flags begin that are paths.
_DEFINE: Mapping[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float,
    str: flags.DEFINE_string, list: flags.DEFINE_multi_string}
# How absl and ml_collections begin what they say of a wrong value, and what they mean.
_ABSL = {
    "could not convert string to float": "a number",
    "invalid literal for int": "a whole number",
    "('Non-boolean argument": "true or false",
    "Error while parsing string": "a tuple such as (1, 2)",
    "Unable to parse value": "none, or build for the defaults of its fields"}


class Values(types.SimpleNamespace):
  """The value of each flag of a command, as an attribute.

  `config` is the run, with all overrides, if the command's `overrides` is set and the
  file is not that of a study; otherwise it is the text of the flag. `study` is that of
  the file, with all overrides, or None. `given_config` is the text of `--config`,
  `argument` the word behind the command, or empty, `arguments` are all of them where
  there may be several, and `words` are all that followed the command.
  """


def parse(name: str, words: Sequence[str]) -> Values:
  """Parses the words that follow a command.

  Args:
    name: The command.
    words: Flags, as `--flag=value` or `--flag value`, with one dash or two.

  Raises:
    errors.UserError: If a flag is unknown, required and missing, or has a value of the
      wrong type; if the config file or an override of its fields is wrong.
  """
  try:
    return _parse(name, declarations.COMMANDS[name], words)
  except flags.Error as error:
    raise _mistake(name, _in_plain_words(str(error))) from error


def changed(name: str, values: Values) -> list[str]:
  """Returns the flags of a command that do not have their defaults."""
  return [flag.name for flag in declarations.COMMANDS[name].flags
          if getattr(values, flag.name) != flag.default]


def _parse(
    name: str, command: declarations.Command, words: Sequence[str]
) -> Values:
  # Own values and not absl's global ones, which exit on --help and can be parsed only
  # once in a process.
  parsed = flags.FlagValues()
  words = parsed.read_flags_from_files(words, force_gnu=False)  # --flagfile=FILE.
  given, runs = words, command.overrides and _is_run(name, command, words)
  study = None
  if command.overrides and not runs and _split_config(words)[0]:
    study, words = _override_study(name, words)
  for flag in command.flags:
    # `--config` of a run is defined by ml_collections below, with one flag per field.
    if not (runs and flag.name == "config"):
      _DEFINE[flag.kind if flag.default is None else type(flag.default)](
          flag.name, flag.default, flag.meaning, flag_values=parsed)
  if runs:
    words = _define_run(name, words, parsed)
  if command.many:
    parsed.set_gnu_getopt()  # Flags may stand behind words and between them.
  rest = parsed([name, *words])[1:]
  if rest[bool(command.argument):] and not command.many:
    raise _mistake(name, f"{rest[-1]!r} is not a flag.")
  values = Values(**{flag.name: parsed[flag.name].value for flag in command.flags})
  values.argument, values.arguments = rest[0] if rest else "", tuple(rest)
  values.given_config, values.study = _split_config(given)[0], study
  values.words = tuple(given)
  for flag in command.flags:
    value = getattr(values, flag.name)
    if flag.required and not value:
      raise _mistake(name, f"`{name}` needs --{flag.name}={flag.value}.")
    if isinstance(value, str) and flag.value.startswith(_PATHS):
      (remote.check_workdir if flag.value == "DIR" else remote.check)(value)
    if flag.value == "DIR" and value and os.path.isfile(value):
      raise _mistake(name, f"--{flag.name}={value} is a file. Give a folder.")
    if flag.minimum is not None and value is not None and value < flag.minimum:
      raise _mistake(
          name, f"--{flag.name} is {value}, must be at least {flag.minimum}.")
    if flag.maximum is not None and value is not None and value > flag.maximum:
      raise _mistake(name, f"--{flag.name} is {value}, must be at most {flag.maximum}.")
  if runs:
    validate.check(values.config)  # Overrides may have brought other types.
  return values


# One flag is defined for each field that the command line overrides. ml_collections
# reads the words for that before absl parses them, and so the run must be loaded first.
def _define_run(
    name: str, words: Sequence[str], parsed: flags.FlagValues
) -> list[str]:
  """Loads the run and defines a flag for each override; returns the other words."""
  given, words = _split_config(words)
  if not given:
    raise _mistake(name, f"`{name}` needs --config=FILE.py[:ARG].")
  return _override(name, config_file.load_run(given), words, parsed)


def _override(
    name: str, run: config_file.run_config.Run, words: Sequence[str],
    parsed: flags.FlagValues) -> list[str]:
  """Defines a flag for each field of a run that words set; returns the other words.

  Once these are parsed, the run has the values.
  """
  words = config_file.take_sources(run, words)
  config_file.build_parts(run, words)
  if isinstance(run.model, str):
    changes, words = config_file.take_model_changes(words)
    run.model_changes.update(changes)
  # ml_collections would answer a wrong field with a KeyError.
  config_file.check_overrides(run, words)
  config_flags.DEFINE_config_dataclass(
      "config", run, flag_values=parsed, sys_argv=[name, *words])
  return words


def _override_study(
    name: str, words: Sequence[str]) -> tuple[config_file.run_config.Study, list[str]]:
  """Loads a study and overrides fields of its runs; returns it and the other words."""
  study = config_file.load_study(_split_config(words)[0])
  study, mine, rest = config_file.take_runs(study, words)
  for run, given in mine.items():
    parsed = flags.FlagValues()
    with errors.naming(f"run {run!r}"):
      try:
        parsed([name, *_override(name, study.runs[run], given, parsed)])
        changed: Any = parsed["config"].value
        study.runs[run] = changed
      except flags.Error as error:
        raise errors.UserError(_in_plain_words(str(error))) from error
  validate.check(study)
  return study, rest


def _is_run(
    name: str, command: declarations.Command, words: Sequence[str]) -> bool:
  """Whether `--config` is a run: no study, whose fields no flag overrides."""
  given = _split_config(words)[0]
  needed = any(flag.name == "config" and flag.required for flag in command.flags)
  return (needed or bool(given)) and not (
      name == "study" and config_file.has_study(given))


def _split_config(words: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the value of the last `--config=VALUE`, and the other words.

  The file must be loaded before absl parses the words, because it decides which
  overrides are flags.
  """
  given, rest, ahead = "", [], iter(words)
  for word in ahead:
    flag, equals, value = word.partition("=")
    if flag in ("-config", "--config"):
      given = value if equals else next(ahead, "")
    else:
      rest.append(word)
  return given, rest


# Messages of absl are matched by how they begin. One that is not known passes as it is,
# so that a new version of absl makes messages worse and never wrong.
def _in_plain_words(message: str) -> str:
  """Returns what absl says of a value in the words of our other messages."""
  found = re.fullmatch("flag (--[^=]+)=(.*?): (.*)", message, re.DOTALL)
  for start, wanted in _ABSL.items():
    if found and found[3].startswith(start):
      return f"{found[1]} is {found[2]!r}, must be {wanted}."
  return message.removeprefix("ERROR:: ")


def _mistake(name: str, message: str) -> errors.UserError:
  return errors.UserError(f"{message}\nSee `transfer-gen {name} --help`.")
