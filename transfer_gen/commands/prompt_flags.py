"""The prompts that flags of `generate` name."""

import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.commands import flags
from transfer_gen.data import prompts as prompts_lib

Prompt = prompts_lib.Prompt


def check(values: flags.Values) -> None:
  """Checks which prompts are given, before anything is read.

  Without any, only a model of drawings can be meant, which writes into a folder.

  Raises:
    errors.UserError: If none are given, or flags contradict each other.
  """
  given = sum((
      values.prompt is not None, values.prompts is not None, bool(values.prior)))
  if given > 1 or not given and values.output is None:
    raise _none_given()
  if values.prompt is not None and values.output is not None:
    raise _not_written()
  if values.interpolate is not None:
    if values.prompts is None and len(values.prompt or ()) != 2:
      raise _not_two(values)
    if values.num is not None:
      raise errors.UserError(
          "--interpolate writes or draws once for each latent: remove --num.")
  if values.prompts is not None:
    prompts_lib.check(values.prompts)


def check_text(values: flags.Values) -> None:
  """Checks the flags again, for a model that writes texts.

  Raises:
    errors.UserError: If there is no prompt, or flags go together for drawings alone.
  """
  if values.prompt is None and values.prompts is None and not values.prior:
    raise _none_given()
  if values.prompts is None and values.output is not None:
    raise _not_written()
  if values.interpolate is not None and values.prompts is not None:
    raise _not_two(values)


def _none_given() -> errors.UserError:
  """Returns the error for a command without prompts, or with two kinds of them."""
  return errors.UserError(
      "`generate` needs either --prompt=TEXT or --prompts=FILE, or for a model with a"
      " latent --prior; a model of drawings needs --output=DIR alone.")


def _not_written() -> errors.UserError:
  """Returns the error for a file of answers without a file of prompts."""
  return errors.UserError(
      "--output is for the answers to --prompts=FILE, or for what a model of drawings"
      " draws of them or of none. Texts for --prompt and --prior are printed.")


def _not_two(values: flags.Values) -> errors.UserError:
  """Returns the error for a path that has no two ends."""
  return errors.UserError(
      "--interpolate goes from one text to another: give --prompt twice. It is given"
      f" {len(values.prompt or ())} time(s). Of drawings, give both as --prompts=FILE.")


def read(values: flags.Values, data: config_lib.Data) -> list[Prompt]:
  """Returns the prompts; `data` is the config of the run's own.

  Raises:
    errors.UserError: If a file is missing, empty or not of its form.
  """
  if values.prompts is None:
    return [Prompt(prompt) for prompt in values.prompt]
  fields = {name: value for name in ("input_field", "target_field")
            if (value := getattr(values, name)) is not None}
  return prompts_lib.read(values.prompts, dataclasses.replace(data, **fields))
