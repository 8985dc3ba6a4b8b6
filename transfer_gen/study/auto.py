"""Chooses a strategy from gradients and short runs, within a budget of steps.

All candidates start from the same params. First, the size of each layer's gradient
relative to its params (Lee et al., 2023, Surgical fine-tuning, section 4) says which
layers to try alone. Then the candidates train for a few steps and the better ones
continue, until one is left: successive halving (Jamieson and Talwalkar, 2016) in three
rounds. The first round keeps the best of each family, and the last trains two
candidates for long.

What learns fast looks best early on, and overfits later if data are few. So no
candidate has more than the run's own learning rate throughout, and a candidate of
another family is still there when overfitting shows. A candidate is an ordinary run
that was stopped. The one that is left resumes, so none of its steps is lost, and it
equals the run that one gets by typing its strategy.
"""

import dataclasses
import pathlib
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.run import checks
from transfer_gen.run import loop
from transfer_gen.run import ownership
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import strategies
from transfer_gen.study import candidates
from transfer_gen.study import decision
from transfer_gen.study import search


def train(
    run: reader_lib.Run, workdir: epath.PathLike, min_coverage: float = 0.0,
    reader: reader_lib.Reader | None = None, events: epath.Path | None = None,
    profile: int = 0,
) -> dict[str, Any]:
  """Trains a run as `loop.train` does; if its strategy is `auto`, searches one first.

  The search leaves its evidence in `workdir/auto`, as decision.json, report.txt and
  report.html, beside the metrics of each candidate. If a search has decided already,
  the run that it chose is resumed.

  Args:
    run: Config of the run.
    workdir: As of `loop.train`.
    min_coverage: As of `loop.train`.
    reader: Has read the data of other runs, which are not read again.
    events: As of `loop.train`; those of candidates lie below it.
    profile: As of `loop.train`; candidates are not recorded.

  Raises:
    errors.UserError: As `loop.train`; or if the budget of a search is too small.
  """
  workdir, reader = epath.Path(workdir), reader or reader_lib.Reader()
  if run.strategy.name == strategies.AUTO:
    # The decision is written last, so where there is one, the search is complete.
    if not decision.read(workdir):
      if ownership.is_claimed(workdir):
        raise errors.UserError(
            f"{workdir} belongs to a run that did not begin with a search. Take another"
            " --workdir, or the strategy that it began with.")
      check(run)
      search.search(run, workdir, min_coverage, reader, events)
    run = decided(run, workdir)
    winner = pathlib.PurePath(decision.FOLDER, decision.read(workdir)["winner"])
    for folder in (workdir, *([] if events is None else [events])):
      _take_over(folder, winner)
    decision.mark_best(workdir)
  return loop.train(
      run, workdir, min_coverage, inputs=reader.read(run, workdir), events=events,
      profile=profile)


def check(run: reader_lib.Run) -> None:
  """Checks the config of a run, and whether its search can begin.

  Raises:
    errors.UserError: If it cannot.
  """
  checks.check(run)
  if run.strategy.name == strategies.AUTO:
    if run.features is not None:
      raise errors.UserError(
          "strategy.name=auto tries strategies in which all learns, and features need a"
          " frozen beginning. Set features=None, or name a strategy.")
    # Raises if the budget is too small. The source of a study's run may not be trained
    # yet, and then its model is not known.
    if not isinstance(run.model, str):
      candidates.rounds(run, candidates.of_model(run.model))


def decided(run: reader_lib.Run, workdir: epath.PathLike) -> reader_lib.Run:
  """Returns the run with the strategy that a search found.

  Before a search, it has the strategy that all candidates start as. A run whose
  strategy is not `auto` is returned as it is.

  Raises:
    errors.UserError: If a search is needed and cannot begin.
  """
  if run.strategy.name != strategies.AUTO:
    return run
  strategy, facts = candidates.COMMON, decision.read(workdir)
  if not facts:
    check(run)
  else:
    strategy = candidates.strategy(facts["strategy"])
  return dataclasses.replace(run, strategy=strategy)


def searched(workdir: epath.PathLike) -> float:
  """Returns the FLOPs of a search beside the run that it chose; 0 if there was none.

  These are the steps of all other candidates, the validations where candidates stopped,
  and the gradients by which layers were chosen.
  """
  facts = decision.read(workdir)
  return facts.get("flops_beside", 0.0) + sum(
      flops for name, flops in facts.get("flops", {}).items()
      if name != facts["winner"])


def _take_over(workdir: epath.Path, winner: pathlib.PurePath) -> None:
  """Moves the winner's files into a folder; does nothing if that was done."""
  folder = workdir / winner
  if not folder.exists():
    return
  # A call that was killed between two moves continues here: what was moved is gone from
  # the folder. A folder that exists in the workdir is replaced, because a rename onto a
  # folder that is not empty fails.
  for path in sorted(folder.iterdir()):
    if (workdir / path.name).is_dir():
      (workdir / path.name).rmtree()
    path.replace(workdir / path.name)
  folder.rmdir()
