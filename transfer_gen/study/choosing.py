"""Chooses a source out of several: measures a run from each, and ranks them."""

from collections.abc import Sequence
import math
from typing import Any

from etils import epath

from transfer_gen.study import choice_files
from transfer_gen.study import choice_page
from transfer_gen.study import chosen_config
from transfer_gen.study import contenders as contenders_lib
from transfer_gen.study import evidence as evidence_lib
from transfer_gen.study import trial


def choose(
    run: contenders_lib.config_lib.Run, given: str, workdir: epath.PathLike,
    sources: Sequence[str], steps: int = 0,
) -> dict[str, Any]:
  """Ranks sources for a target, and writes `choose.json` and `chosen.py`.

  All runs are assembled before the first is measured. What an earlier call in the same
  workdir has measured is not measured again.

  Args:
    run: The target: a config with data, and without a source.
    given: What `--config` named it, which `chosen.py` loads.
    workdir: New, empty, or of this same choice.
    sources: Paths as of `config.Source.path`, two at least.
    steps: Number of steps that each run trains. With 0 none trains.

  Returns:
    What `choose.json` holds: `asked` (what the evidence depends on), `evidence` by name
    (see `evidence.measure`; with `after`, the validation after `steps`, or None without
    steps, `path` and `is_scratch`), `unit`, `order` (names, best first: by the
    validation loss after the steps, or without steps before the first), `winner`, the
    first of them, and `helps`, whether it is no run from scratch.

  Raises:
    errors.UserError: If sources are equal or too few, if some cannot be read or do not
      fit (the message names all of them), or if the workdir is of something else.
  """
  workdir = epath.Path(workdir)
  contenders = contenders_lib.of_run(run, sources)
  choice_files.read(workdir)  # Before texts are read and tokenized.
  reader = contenders_lib.Reader()
  assembled = contenders_lib.assembled(
      contenders, workdir / choice_files.RUNS, reader, steps)
  asked = choice_files.asked(assembled, steps)
  with choice_files.alone(workdir):
    facts = choice_files.begin(workdir, asked)
    for one in contenders:
      if one.name not in facts["evidence"]:
        print(f"choose: {one.name}", flush=True)
        facts["evidence"][one.name] = {
            **evidence_lib.measure(assembled[one.name], reader),
            "after": _after(assembled[one.name], workdir, one.name, steps),
            "path": one.path, "is_scratch": one.is_scratch}
        choice_files.write(workdir, facts)
    complete = "winner" in facts
    facts |= _decided(facts["evidence"], steps)
    winner = next(one for one in contenders if one.name == facts["winner"])
    # It may have been edited since an earlier call.
    if not (workdir / choice_files.CHOSEN).exists():
      chosen_config.write(workdir / choice_files.CHOSEN, given, run, winner)
    if not complete:  # Afterwards, a user may have continued any of them.
      for name in facts["order"][1:]:
        # Their metrics stay, and the winner's checkpoints, from which it can go on.
        (workdir / choice_files.RUNS / name / "checkpoints").rmtree(missing_ok=True)
      choice_files.write(workdir, facts)
  return facts


def text(facts: dict[str, Any]) -> str:
  """Returns what was found for people, in 80 columns."""
  return choice_page.text(facts)


def _after(assembled, workdir, name, steps):
  """The validation after some steps; None without any."""
  if not steps:
    return None
  inputs, folder = assembled.inputs, workdir / choice_files.RUNS / name
  return evidence_lib.losses(trial.scores(inputs, inputs.run, folder, steps))


def _decided(evidence, steps):
  """The order of the runs, best first, and what follows from it."""
  def rank(name):
    loss = evidence[name]["after" if steps else "before"]["across_tokens"]
    # Of equal ones the one from scratch is first: such a source does not help.
    return math.inf if loss is None else loss, not evidence[name]["is_scratch"]
  order = sorted(evidence, key=rank)
  return {"order": order, "winner": order[0],
          "helps": not evidence[order[0]]["is_scratch"],
          "unit": evidence[order[0]]["unit"]}
