"""The command line: `python -m transfer_gen COMMAND [--flags]`."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import sys
from typing import Any


from absl import flags
from absl import logging

from transfer_gen import errors

_CONFIG = ("config",)
_FLAGS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "workdir": (flags.DEFINE_string, None, "folder of the run; local or gs://"),
    "source": (flags.DEFINE_string, None, "a run's workdir, or one checkpoint"),
    "split": (flags.DEFINE_string, "test", "train, validation or test"),
    "step": (flags.DEFINE_integer, -1, "which checkpoint; -1: the best"),
    "prompt": (flags.DEFINE_string, None, "text to go on from; a pair's input"),
    "prompts": (flags.DEFINE_string, None, "file of prompts, one a line"),
    "num": (flags.DEFINE_integer, 1, "samples of each prompt"),
    "max_tokens": (flags.DEFINE_integer, 64, "longest continuation, in tokens"),
    "temperature": (flags.DEFINE_float, 0.0, "0: greedy"),
    "top_k": (flags.DEFINE_integer, 0, "draw from the k likeliest; 0: all"),
    "top_p": (flags.DEFINE_float, 1.0, "draw from the likeliest of this mass"),
    "seed": (flags.DEFINE_integer, 0, "of what is drawn"),
}


@dataclasses.dataclass(frozen=True)
class _Command:
  """One word of the command line."""
  run: Callable[[], None]
  flags: tuple[str, ...]
  help: str
  required: tuple[str, ...]


def run() -> None:
  """Entry point: parses, runs the command, turns errors into exit codes."""
  argv = sys.argv
  if len(argv) < 2 or argv[1] in ("-h", "--help", "-help", "help"):
    print(_usage())
    sys.exit(0 if len(argv) > 1 else 2)
  name = argv[1]
  if name not in _COMMANDS:
    _fail(f"{name!r} is no command.\n\n{_usage()}")
  command = _COMMANDS[name]
  if any(word in ("-h", "--help", "-help") for word in argv[2:]):
    print(_help(name, command))
    sys.exit(0)
  try:
    _parse(name, command, argv[2:])
    logging.set_verbosity(logging.ERROR)
    command.run()
  except errors.UserError as error:
    _fail(str(error))
  except KeyboardInterrupt:
    _fail("interrupted; the same command goes on from the last checkpoint.")


def _parse(name: str, command: _Command, words: Sequence[str]) -> None:
  for flag in command.flags:
    if flag != "config":
      define, default, text = _FLAGS[flag]
      define(flag, default, text)
  if "config" in command.flags:
    from ml_collections import config_flags  # pylint: disable=g-import-not-at-top
    path = next((w.split("=", 1)[1] for w in words if w.startswith("--config=")), "")
    _check_config(path)
    config_flags.DEFINE_config_file("config", None, "the experiment")
  try:
    rest = flags.FLAGS([name, *words])
  except flags.Error as error:
    raise errors.UserError(f"{error}\nSee: transfer-gen {name} --help") from error
  except KeyError as error:
    raise errors.UserError(f"--config: {error.args[0]}.") from error
  if rest[1:]:
    raise errors.UserError(
        f"{rest[1]!r} is not a flag. See: transfer-gen {name} --help")
  for flag in command.required:
    if not flags.FLAGS[flag].value:
      raise errors.UserError(f"{name} needs --{flag}=. See: transfer-gen {name} --help")


def _check_config(path: str) -> None:
  file = path.split(":", 1)[0]
  if not file:
    raise errors.UserError("--config= is missing: the experiment's Python file.")
  if not os.path.isfile(file):
    raise errors.UserError(f"--config: {file} is not there, or is no file.")


def _config(kind: str) -> Any:
  """The config after overrides, of the type that the command wants."""
  from transfer_gen import config as config_lib  # pylint: disable=g-import-not-at-top
  value = flags.FLAGS.config
  if type(value).__name__ == "_ErrorConfig":
    raise errors.UserError("--config: the file has no get_config(arg).")
  if not isinstance(value, getattr(config_lib, kind)):
    raise errors.UserError(
        f"--config: get_config returned a {type(value).__name__}, wanted a"
        f" transfer_gen.config.{kind}.")
  return value


def _plan() -> None:
  from transfer_gen.train import setup as setup_lib  # pylint: disable=g-import-not-at-top
  from transfer_gen.train import workdir as workdir_lib  # pylint: disable=g-import-not-at-top
  setup = setup_lib.build(_config("Run"), flags.FLAGS.workdir)
  print(workdir_lib.write_audit(setup, flags.FLAGS.workdir), end="")


def _train() -> None:
  from transfer_gen.train import loop  # pylint: disable=g-import-not-at-top
  print(json.dumps(loop.train(_config("Run"), flags.FLAGS.workdir)))


_COMMANDS = {
    "plan": _Command(
        _plan, ("config", "workdir"),
        "Prints, leaf by leaf, what a transfer moves and what learns.",
        ("config", "workdir")),
    "train": _Command(
        _train, ("config", "workdir"),
        "Trains a run; on a workdir that stopped, goes on from there.",
        ("config", "workdir")),
}


def _usage() -> str:
  lines = [f"  {name:10} {command.help}" for name, command in _COMMANDS.items()]
  return "\n".join([
      "Moves what a trained generator knows into a new one.", "",
      "usage: transfer-gen COMMAND [--flag=value ...]", "", *lines, "",
      "transfer-gen COMMAND --help tells of its flags."])


def _help(name: str, command: _Command) -> str:
  lines = []
  for flag in command.flags:
    if flag == "config":
      lines.append("  --config=F.py[:ARG]    the experiment: get_config(ARG) in F.py")
      lines.append("  --config.a.b=VALUE     overrides one field of it")
      continue
    _, default, text = _FLAGS[flag]
    needed = " (required)" if flag in command.required else ""
    shown = "" if default is None else f" (default {default})"
    lines.append(f"  {'--' + flag + '=':22} {text}{shown}{needed}")
  return "\n".join([
      f"usage: transfer-gen {name} [--flag=value ...]", "", command.help, "", *lines])


def _fail(message: str) -> None:
  print(f"transfer-gen: {message}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  run()
