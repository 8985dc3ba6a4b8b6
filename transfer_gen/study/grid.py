"""The learning rates that the runs of a study try."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import math

from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import pairs as pairs_lib

_FACTOR = 3  # Between the edge of a grid and the rate beyond it.
# A best rate that is better than its neighbor by a smaller share is as good as that.
_EQUAL = 1e-4


class Grid:
  """The learning rates of all compared runs.

  Runs that pairs connect try the same rates: a run with more of them would be tuned
  better than its control. Only a control with more steps has rates of its own, see
  `add_longer`. A search keeps to its own, see `jobs.is_search`.
  """

  def __init__(self, study: jobs_lib.Study):
    """Begins with the rates of the study; without any, each run has its own."""
    self._study = study
    self._rates: dict[str, _Rates] = {}
    for name in jobs_lib.compared(study):
      if name not in self._rates:
        self._begin(pairs_lib.connected(study.pairs, name))

  def add_longer(self, name: str) -> None:
    """Begins the grid that a control with more steps has for itself.

    The best rate of more steps is often another one, so that it begins with the rates
    of the study again. It is widened for this run alone: runs with other steps do not
    try what is beyond its edge, nor it what was beyond theirs.

    Args:
      name: Name of the run.
    """
    self._begin({name})

  def of(self, name: str) -> Sequence[float]:
    """Returns the rates that a run tries; none if it has its own."""
    is_search = jobs_lib.is_search(self._study.runs[name])
    is_listed = name in self._rates and not is_search
    return tuple(self._rates[name].values) if is_listed else ()

  def added(self, before: Mapping[str, Sequence[float]]) -> list[str]:
    """Returns, for people, which rates were added for which runs, and why.

    Args:
      before: The rates of runs, by name, before some were added.
    """
    runs: dict[tuple[float, ...], list[str]] = {}
    for name, rates in before.items():
      if more := tuple(rate for rate in self.of(name) if rate not in rates):
        runs.setdefault(more, []).append(name)
    return [
        f"{', '.join(names)}: lr {' and '.join(f'{rate:g}' for rate in more)} tried as"
        " well, as the best rate lies at the edge of those tried"
        for more, names in runs.items()]

  def widen(self, trained: Mapping[str, Sequence[jobs_lib.Job]]) -> bool:
    """Adds a rate beyond each edge of a grid at which the best rate of some run lies.

    A grid is widened at most `Study.widen` times. A rate whose training failed is an
    edge, too, beyond which nothing is tried.

    Args:
      trained: For runs that have tried all their rates, the trainings that have ended.

    Returns:
      Whether a rate was added.
    """
    added = False
    for grid in {id(grid): grid for grid in self._rates.values()}.values():
      names = [name for name in trained if self._rates.get(name) is grid]
      beyond = {_beyond(grid.values, trained[name]) for name in names} - {None}
      if grid.left and len(grid.values) > 1 and beyond:
        grid.left -= 1
        grid.values += sorted(rate for rate in beyond if rate is not None)
        added = True
    return added

  def _begin(self, names: Collection[str]) -> None:
    """Gives some runs a grid that they share."""
    self._rates |= dict.fromkeys(names, _Rates(
        values=[*dict.fromkeys(self._study.lrs)], left=self._study.widen))


@dataclasses.dataclass(kw_only=True)
class _Rates:
  """The rates that some runs try, and how often they may still be widened."""
  values: list[float]
  left: int


def _beyond(rates: Sequence[float], tried: Sequence[jobs_lib.Job]) -> float | None:
  """Returns the rate to try next; None if the best one lies within the grid."""
  found = pairs_lib.by_rate(tried)
  best = min(found, key=lambda lr: found[lr], default=None)
  others = [lr for lr in found if lr != best]
  if best is None or not others or min(rates) < best < max(rates):
    return None
  near = min(others, key=lambda lr: abs(math.log(lr / best)))
  if found[near] - found[best] <= _EQUAL * abs(found[best]):
    return None
  # Three digits, by which a study that goes on finds the rate again.
  return float(f"{best * _FACTOR if best == max(rates) else best / _FACTOR:.3g}")
