"""`transfer-gen generate`: continues prompts, answers, decodes latents, or draws."""

import sys

from etils import epath

from transfer_gen.commands import decoding_flags
from transfer_gen.commands import drawing
from transfer_gen.commands import flags
from transfer_gen.commands import prompt_flags
from transfer_gen.run import answer_file
from transfer_gen.run import trained as trained_lib


def run(values: flags.Values) -> None:
  """Prints the answers, or writes them to a file; the workdir stays as it is."""
  prompt_flags.check(values)
  trained = trained_lib.open(values.workdir, values.step)
  # Not on stdout, which holds the answers and nothing else.
  if trained.workdir != epath.Path(values.workdir):
    print(f"{values.workdir}: its best run, {trained.workdir}", file=sys.stderr)
  if trained.is_drawn:
    drawing.run(trained, values)
    return
  prompt_flags.check_text(values)
  if values.prior or values.interpolate is not None:
    _show_all(_from_latents(values, trained))
    return
  decoding = decoding_flags.override(trained.run.decoding, values)
  if values.prompts is None and len(values.prompt) == 1 and decoding.num == 1:
    trained.stream(values.prompt[0], decoding, _show)
    print()
    return
  prompts = prompt_flags.read(values, trained.run.data)
  how = dict(progress="input", parallel=trained.run.parallel,
             batch_size=values.batch_size, strict=values.prompts is None)
  if values.output is None:
    answers = trained.answers([prompt.text for prompt in prompts], decoding, **how)
    _show_all([text for found in answers.texts for text in found])
  else:
    answers = answer_file.write(trained, prompts, decoding, values.output, **how)
    print(f"{values.output}: {len(prompts)} answers.")
  if answers.too_long:
    done = "cut" if decoding.too_long == "cut" else "answered with nothing"
    print(f"{len(answers.too_long)} inputs were longer than the model can read, and"
          f" {done}; the first is number {answers.too_long[0] + 1}.", file=sys.stderr)


def _from_latents(values, trained) -> list[str]:
  """Returns texts out of latents that no input gave."""
  # With a prior, `num` is the number of latents, which no beam search limits.
  decoding = decoding_flags.override(
      trained.run.decoding, flags.Values(**{**vars(values), "num": 1}),
      seeded=values.prior)
  how = dict(parallel=trained.run.parallel, batch_size=values.batch_size)
  if values.prior:
    return trained.sample(values.num or 1, decoding, **how)
  return trained.interpolate(*values.prompt, values.interpolate, decoding, **how)


def _show_all(texts) -> None:
  for number, text in enumerate(texts, 1):
    print(f"--- {number} of {len(texts)}\n{text}" if texts[1:] else text)


def _show(part: str) -> None:
  print(part, end="", flush=True)
