"""`transfer-gen generate`: continues prompts with a trained run."""

import sys

from etils import epath

from transfer_gen import errors
from transfer_gen.commands import declarations
from transfer_gen.commands import flags
from transfer_gen.data import files
from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib


def run(values: flags.Values) -> None:
  """Prints the continuations, and adds them to the run's `samples.jsonl`."""
  prompts = _prompts(values)
  _check_beams(values)
  trained = trained_lib.open(values.workdir, values.step)
  # Not on stdout, which holds the answers and nothing else.
  if trained.workdir != epath.Path(values.workdir):
    print(f"{values.workdir}: its best run, {trained.workdir}", file=sys.stderr)
  if values.beams > 1:
    # A search may end with fewer texts than beams, so prompts are repeated by what was
    # found and not by --num.
    found = [row[:values.num] for row in trained.search(
        prompts, values.max_tokens, values.beams, values.length_penalty)]
    prompts = [prompt for prompt, row in zip(prompts, found) for _ in row]
    answers = [answer for row in found for answer in row]
  else:
    prompts = [prompt for prompt in prompts for _ in range(values.num)]
    answers = trained.complete(
        prompts, values.max_tokens, seed=values.seed, temperature=values.temperature,
        top_k=values.top_k, top_p=values.top_p)
  records.add_samples(trained.workdir, prompts, answers)
  for number, answer in enumerate(answers, 1):
    print(f"--- {number} of {len(answers)}\n{answer}" if answers[1:] else answer)


def _prompts(values: flags.Values) -> list[str]:
  if (values.prompt is None) == (values.prompts is None):
    raise errors.UserError("`generate` needs either --prompt=TEXT or --prompts=FILE.")
  return [values.prompt] if values.prompts is None else files.read_lines(values.prompts)


# A flag without effect is an error: who sets a temperature for a beam search believes
# that it acts. A value equal to the default cannot be told from none.
def _check_beams(values: flags.Values) -> None:
  """Refuses flags of sampling in a beam search, and the other way around."""
  changed = [flag.name for flag in declarations.COMMANDS["generate"].flags
             if getattr(values, flag.name) != flag.default]
  sampling = [f"--{name}" for name in ("temperature", "top_k", "top_p", "seed")
              if name in changed]
  for wrong, message in (
      (values.beams > 1 and sampling,
       f"A beam search samples nothing: remove {', '.join(sampling)}, or set"
       " --beams=1."),
      (1 < values.beams < values.num,
       f"--beams={values.beams} cannot find {values.num} texts: lower --num."),
      (values.beams == 1 and "length_penalty" in changed,
       "--length_penalty is for a beam search: set --beams, or remove it.")):
    if wrong:
      raise errors.UserError(message)
