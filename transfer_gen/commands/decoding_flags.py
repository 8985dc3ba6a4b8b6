"""Settings of generation as flags of the command line."""

import dataclasses

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.commands import declarations
from transfer_gen.commands import flags

NAMES = tuple(flag.name for flag in declarations.DECODING)
_DRAWS = ("top_k", "top_p", "min_p", "seed")
_SEARCHES = ("length_penalty", "early_stopping")


# A flag without effect is an error: who sets a temperature for a beam search believes
# that it acts.
def override(
    decoding: config_lib.Decoding, values: flags.Values, seeded: bool = False
) -> config_lib.Decoding:
  """Returns settings of a run with those of the command line in place of its own.

  Args:
    decoding: Settings of the run.
    values: Flags of a command that has `declarations.DECODING` among its flags.
    seeded: Whether the seed decides more than tokens.

  Raises:
    errors.UserError: If a list of tokens is no list, a setting has a value that it does
      not declare, or flags contradict each other.
  """
  given = {flag.name: getattr(values, flag.name) for flag in declarations.DECODING
           if getattr(values, flag.name) is not None}
  for name in given.keys() & {"end_tokens", "suppress"}:
    given[name] = _tokens(name, given[name])
  if "stop" in given:
    given["stop"] = tuple(text.replace("\\n", "\n") for text in given["stop"])
  if given.get("beams", 1) > 1 and "temperature" not in given:
    given["temperature"] = 0.0  # A search was asked for, whatever the run does.
  found = dataclasses.replace(decoding, **given)
  config_lib.check(found, "decoding")
  _refuse_without_effect(found, given.keys() - ({"seed"} if seeded else set()) - (
      {"temperature"} if values.temperature is None else set()))
  return found


def _refuse_without_effect(decoding, given) -> None:
  shown = lambda names: ", ".join(f"--{name}" for name in names if name in given)
  draws = ("temperature", *_DRAWS)
  for wrong, message in (
      (decoding.beams > 1 and shown(draws),
       f"A beam search samples nothing: remove {shown(draws)}, or set --beams=1."),
      (decoding.beams > 1 and decoding.num > decoding.beams,
       f"--beams={decoding.beams} cannot find {decoding.num} texts: lower --num."),
      (decoding.beams == 1 and shown(_SEARCHES),
       f"{shown(_SEARCHES)} is for a beam search: set --beams, or remove it."),
      (decoding.temperature == 0 and shown(_DRAWS),
       f"{shown(_DRAWS)} is for tokens that are drawn: set --temperature, or remove"
       " it.")):
    if wrong:
      raise errors.UserError(message)


def _tokens(name: str, text: str) -> tuple[int, ...]:
  try:
    return tuple(int(token) for token in text.split(",") if token.strip())
  except ValueError as error:
    raise errors.UserError(
        f"--{name} is {text!r}, must be token ids such as 3,7.") from error
