"""The trainings of a study: runs with seeds and learning rates, sources first."""

from collections.abc import Mapping
import copy
import dataclasses

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors

Run, Sketch, Study = config_lib.Run, config_lib.Sketch, config_lib.Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One training of a study: a run with a seed and a learning rate.

  Attributes:
    name: Name of the run in the study.
    seed: Seed that replaces the run's own.
    lr: Peak learning rate that replaces the run's own; 0 if it is chosen.
    workdir: Folder that the training writes to.
    run: Config of the run, with seed, learning rate and the paths of its sources.
  """
  name: str
  seed: int
  lr: float
  workdir: epath.Path
  run: config_lib.Run


def jobs(study: config_lib.Study, workdir: epath.PathLike) -> list[Job]:
  """Lists what a study trains; a source comes before the runs that read it.

  Raises:
    errors.UserError: If a pair names no run, or sources form a circle.
  """
  compared = {name for pair in study.pairs for name in pair}
  if unknown := compared - study.runs.keys():
    raise errors.UserError(
        f"pairs name {', '.join(sorted(unknown))}, not among the runs"
        f" {', '.join(study.runs)}.")
  result = []
  for name in _in_order(study.runs):
    run = study.runs[name]
    # A run that is only a source trains once: all compared runs start from the same
    # one, and its chance is not what the study measures.
    seeds = study.seeds if name in compared else study.seeds[:1]
    lrs = (study.lrs or (run.optim.lr,)) if name in compared else (run.optim.lr,)
    for seed in seeds:
      for lr in lrs:
        folder = epath.Path(workdir) / name
        # `:g` gives each rate a short name that is the same in every call, by which a
        # study that goes on finds its runs.
        if name in compared:
          folder = folder / f"seed_{seed}" / (f"lr_{lr:g}" if lr else "lr_chosen")
        result.append(Job(name=name, seed=seed, lr=lr, workdir=folder,
                          run=_with(run, seed, lr, study, epath.Path(workdir))))
  return result


def sources(runs: Mapping[str, config_lib.Run], name: str) -> set[str] | None:
  """Returns the runs that a run starts from or learns from, and those behind them.

  None if one of them has a source that is no run of the study, whose cost is unknown.

  Args:
    runs: All runs by name.
    name: Name of a run. It reads no sources if its plan takes every leaf from none.
  """
  read = _sources(runs[name])
  if any(not source.run for source in read):
    return None
  found = {source.run for source in read}
  for other in [*found]:
    behind = sources(runs, other)
    if behind is None:
      return None
    found |= behind
  return found


def _in_order(runs: Mapping[str, config_lib.Run]) -> list[str]:
  """Names of the runs, each after the runs that its sources name."""
  ordered: list[str] = []

  def visit(name: str, path: tuple[str, ...]) -> None:
    if name in path:
      raise errors.UserError(f"sources go in a circle: {' -> '.join([*path, name])}.")
    if name in ordered:
      return
    for other in _read_by(runs[name]):
      if other not in runs:
        raise errors.UserError(
            f"run {name!r}: source.run is {other!r}, which is none of"
            f" {', '.join(runs)}.")
      visit(other, (*path, name))
    ordered.append(name)

  for name in runs:
    visit(name, ())
  return ordered


def _read_by(run: config_lib.Run) -> list[str]:
  """Names of the runs that a run starts from or learns from."""
  return [source.run for source in _sources(run) if source.run]


def _sources(run: config_lib.Run) -> list[config_lib.Source]:
  teacher = [run.distill.teacher] if run.distill is not None else []
  return [*run.all_sources().values(), *teacher]


# A deep copy, because configs are mutable and several jobs are made of one run.
def _with(run, seed, lr, study, workdir) -> config_lib.Run:
  at = lambda source: dataclasses.replace(
      source, path=str(workdir / source.run), run="") if source.run else source
  found = {name: at(source) for name, source in run.all_sources().items()}
  # A run from scratch has nothing that it could forget.
  remembered = study.remembered if study.accounts and found else None
  return dataclasses.replace(
      copy.deepcopy(run), seed=seed, source=found.pop("", None), sources=found,
      remembered=remembered or run.remembered,
      optim=dataclasses.replace(run.optim, lr=lr),
      distill=run.distill and dataclasses.replace(
          run.distill, teacher=at(run.distill.teacher)))
