"""Which strategy: decided from gradients and short runs, within a budget of steps.

All candidates start from the same params. First, how large each layer's gradient is
against its params (Lee et al., 2023, Surgical fine-tuning, section 4) says which
layers to try alone. Then candidates train a little, the better ones go on, until one is
left: successive halving (Jamieson and Talwalkar, 2016) in three rounds, of which the
first keeps the best of each family and the last trains two for long. What learns fast
looks best early on, and where data are few it is what overfits later; so no candidate
has more than the run's own rate throughout, and one of another family meets it when
that shows. A candidate is an ordinary run that was stopped: the one that is left goes
on to its end, so that none of its steps is lost and a run with its strategy, typed by
hand, is the same run.
"""

import dataclasses
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
    reader: reader_lib.Reader | None = None,
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

  Raises:
    errors.UserError: As `loop.train`; or if the budget of a search is too small.
  """
  workdir, reader = epath.Path(workdir), reader or reader_lib.Reader()
  if run.strategy.name == strategies.AUTO:
    if not decision.read(workdir):
      if ownership.is_claimed(workdir):
        raise errors.UserError(
            f"{workdir} belongs to a run that did not begin with a search. Take another"
            " --workdir, or the strategy that it began with.")
      check(run)
      search.search(run, workdir, min_coverage, reader)
    run = decided(run, workdir)
    _take_over(workdir)
  return loop.train(
      run, workdir, min_coverage, inputs=reader.read(run, workdir))


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
    # Raises if the budget is too small.
    candidates.rounds(run, candidates.of_model(run.model))


def decided(run: reader_lib.Run, workdir: epath.PathLike) -> reader_lib.Run:
  """The run with the strategy that a search found, or that all candidates start as.

  A run whose strategy is not `auto` stays as it is.

  Raises:
    errors.UserError: If a search is to come that cannot begin.
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
  """FLOPs of all that a search tried and dropped; 0 where there was none."""
  facts = decision.read(workdir)
  return sum(flops for name, flops in facts.get("flops", {}).items()
             if name != facts["winner"])


def _take_over(workdir: epath.Path) -> None:
  """Makes the workdir that of the winner; does nothing where that was done."""
  folder = workdir / decision.FOLDER / decision.read(workdir)["winner"]
  if not folder.exists():
    return
  for path in sorted(folder.iterdir()):
    if (workdir / path.name).is_dir():
      (workdir / path.name).rmtree()
    path.replace(workdir / path.name)
  folder.rmdir()
