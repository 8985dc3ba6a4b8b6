"""What `generate` does with a model of drawings."""

from transfer_gen import errors
from transfer_gen.commands import decoding_flags
from transfer_gen.commands import flags
from transfer_gen.commands import prompt_flags
from transfer_gen.run import drawn
from transfer_gen.run import pictures

_READ = ("max_tokens", "num", "temperature", "seed")  # Of the settings of generation.


def run(trained: drawn.Trained, values: flags.Values) -> None:
  """Draws into a new folder; the workdir stays as it is."""
  _check(values)
  decoding = decoding_flags.override(trained.run.decoding, values)
  if values.prompts is None:
    found, labels = drawn.freely(trained, decoding, values.batch_size), []
    columns = 0
  else:
    texts = [prompt.text for prompt in prompt_flags.read(values, trained.run.data)]
    if values.interpolate:
      found = drawn.between(
          trained, texts, values.interpolate, decoding, values.batch_size)
      labels, columns = [], min(values.interpolate, 10)
    else:
      found, labels, columns = _beside(trained, texts, decoding, values.batch_size)
  pictures.write(values.output, found, labels, columns)
  print(f"{values.output}: {len(found)} drawings, side by side in sheet.svg.")


def _beside(trained, texts, decoding, batch_size):
  """Returns each drawing with those that were drawn after it, for one row each."""
  redrawn = drawn.after(trained, texts, decoding, batch_size)
  found, labels = [], []
  for i, text in enumerate(texts):
    found.append(pictures.notation.points_of(text))
    labels.append(f"{i}: given")
    for number in range(decoding.num):
      found.append(redrawn[i * decoding.num + number])
      labels.append(f"{i}: drawn")
  return found, labels, 1 + decoding.num


def _check(values: flags.Values) -> None:
  """Refuses flags that say nothing about drawings."""
  if values.output is None:
    raise errors.UserError(
        "This model draws: give --output=DIR, a new folder for the pictures.")
  pictures.check(values.output)
  idle = [name for name in ("prompt", "input_field", "target_field", *(
      name for name in decoding_flags.NAMES if name not in _READ))
          if getattr(values, name) is not None]
  idle += ["prior"] if values.prior else []
  if idle:
    raise errors.UserError(
        f"{', '.join(f'--{name}' for name in idle)}: this model draws, and these flags"
        " are for texts. Remove them;"
        f" {', '.join(f'--{name}' for name in _READ)} act on drawings.")
