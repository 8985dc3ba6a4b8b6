"""The config file of the run that a choice of a source has found."""

import dataclasses
import os

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen.config import codec
from transfer_gen.config import file as config_file
from transfer_gen.formats import whole
from transfer_gen.study import contenders as contenders_lib


def write(
    path: epath.Path, given: str, run: config_lib.Run,
    winner: contenders_lib.Contender) -> None:
  """Writes a config file that loads the target's, and sets what was chosen.

  It loads the file and does not repeat it, as that may hold functions, such as a plan.

  Args:
    path: Where to write.
    given: The target as `--config` names it.
    run: The target, with what flags have changed.
    winner: What was chosen.
  """
  whole.write_text(path, code(given, run, winner))


def code(given: str, run: config_lib.Run, winner: contenders_lib.Contender) -> str:
  """Returns the text of the file; arguments as of `write`."""
  # As it is without flags, to find the fields that they have changed.
  loaded = config_file.load_run(given)
  lines = [f"run.{field.name} = {codec.to_code(mine)}"
           for field in dataclasses.fields(run)
           if field.name not in ("source", "transfer")
           and (mine := getattr(run, field.name)) != getattr(loaded, field.name)]
  module = ""
  if winner.path:
    lines.append(f"run.source = {codec.to_code(winner.run.source)}")
  if winner.is_scratch:
    module = "from transfer_gen.study import from_run\n"
    how = "scratch" if winner.path else "alone"
    lines.append(f"run = from_run.{how}(run)")
  return "\n".join([
      '"""Written by `transfer-gen choose`; choose.json beside it says why."""', "",
      "from transfer_gen import config",
      f"from transfer_gen.config import file\n{module}", "",
      "def get_config():", f"  run = file.load_run({_absolute(given)!r})",
      *(f"  {line}" for line in lines), "  return run", ""])


def _absolute(given: str) -> str:
  if given.startswith(config_file.RECIPE):
    return given
  file, colon, arg = given.partition(":")
  return f"{os.path.abspath(file)}{colon}{arg}"
