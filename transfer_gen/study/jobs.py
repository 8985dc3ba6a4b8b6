"""The trainings of a study: runs with seeds and learning rates, sources first."""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import fnmatch
import re

from etils import epath

from transfer_gen import best_link
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.run import strategies
from transfer_gen.study import fractions

Run, Sketch, Study = config_lib.Run, config_lib.Sketch, config_lib.Study
_EVENTS = "tensorboard"  # Of all runs, each in a folder of its own.
# Beside the folders of runs.
_FILES = (_EVENTS, best_link.NAME, "calls.json", "results.json", "results.csv",
          "pairs.csv", "report.html", "report.svg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One training of a study: a run with a seed and a learning rate.

  Attributes:
    name: Name of the run in the study.
    seed: Seed that replaces the run's own.
    lr: Peak learning rate that replaces the run's own; 0 if it is chosen.
    workdir: Folder that the training writes to.
    run: Config of the run, with seed, learning rate and the paths of its sources.
    events: Folder of its events for TensorBoard, beside those of all other runs: below
      the workdir, TensorBoard would find those of the best run again through the link
      `best`. If None, one in the workdir.
  """
  name: str
  seed: int
  lr: float
  workdir: epath.Path
  run: config_lib.Run
  events: epath.Path | None = None

  @property
  def title(self) -> str:
    """Name, seed and rate, for people."""
    rate = f"lr {self.lr:g}" if self.lr else "lr chosen"
    return f"{self.name}, seed {self.seed}, {rate}"


def expanded(study: config_lib.Study) -> config_lib.Study:
  """Returns the study with a run for each share of data that `Study.fractions` names.

  Args:
    study: The study, as a user wrote it.

  Raises:
    errors.UserError: If `fractions` or a name is wrong; otherwise as of `jobs`.
  """
  if study.fractions:
    config_lib.check(study)
    _check(study)  # What is said of runs is said of those that the user wrote.
  return fractions.expand(study)


def jobs(study: config_lib.Study, workdir: epath.PathLike) -> list[Job]:
  """Lists what a study trains, pair by pair, the sources of a run before it.

  Raises:
    errors.UserError: If a pair names no run, a run is in no pair and no source, sources
      form a circle or name a run that a pair compares, or a name is not free; if
      something else has the place of the link `best`.
  """
  _check(study)
  # After all training, nothing could be done but to train it again.
  best_link.check(workdir)
  names = dict.fromkeys(name for pair in study.pairs for one in pair
                        for name in in_order(study, one))
  return [job for name in names for job in of_run(study, workdir, name)]


def of_run(
    study: config_lib.Study, workdir: epath.PathLike, name: str,
    lrs: Sequence[float] = (),
) -> list[Job]:
  """Lists the trainings of one run of a study.

  Args:
    study: The study.
    workdir: Its workdir.
    name: Name of the run.
    lrs: Learning rates that it tries; if empty, those of `rates`.
  """
  run, is_compared = study.runs[name], name in compared(study)
  # A run that is only a source trains once: all compared runs start from the same one,
  # and its chance is not what the study measures.
  seeds = study.seeds if is_compared else study.seeds[:1]
  result = []
  for seed in seeds:
    for lr in lrs or rates(study, name):
      below = epath.Path(name)
      # `:g` gives each rate a short name that is the same in every call, by which a
      # study that goes on finds its runs.
      if is_compared:
        below = below / f"seed_{seed}" / (f"lr_{lr:g}" if lr else "lr_chosen")
      result.append(Job(
          name=name, seed=seed, lr=lr, workdir=epath.Path(workdir) / below,
          run=_with(run, seed, lr, study, epath.Path(workdir)),
          events=epath.Path(workdir) / _EVENTS / below))
  return result


def rates(study: config_lib.Study, name: str) -> tuple[float, ...]:
  """Returns the learning rates that a run tries at first."""
  run = study.runs[name]
  fixed = is_search(run) or not study.lrs or name not in compared(study)
  return (run.optim.lr,) if fixed else study.lrs


def is_search(run: config_lib.Run) -> bool:
  """Whether a run searches among factors of its own learning rate.

  With the rates of the study as well, it would be tuned better than its control.
  """
  return run.strategy.name == strategies.AUTO


def selected(jobs: Sequence[Job], only: str) -> list[Job]:
  """Returns the trainings that a pattern names, and the sources that they read.

  Args:
    jobs: Trainings, sources first.
    only: Pattern of what is wanted, as of `fnmatch`: names of runs, or `NAME/seed_S`;
      all if empty.
  """
  found: list[Job] = []
  read: set[str] = set()
  for job in reversed(jobs):  # From the last one on, so that sources come along.
    names = (job.name, f"{job.name}/seed_{job.seed}")
    if not only or str(job.workdir) in read or any(
        fnmatch.fnmatchcase(name, only) for name in names):
      found.append(job)
      read |= {source.path for source in read_by(job.run)}
  return found[::-1]


def check_only(jobs: Sequence[Job], only: str) -> None:
  """Refuses a pattern that names no training; see `selected`.

  Raises:
    errors.UserError: With the names of all runs.
  """
  # A control with more steps, NAME_x2, is known only once its own has trained.
  if not selected(jobs, re.sub(r"_x\d+(?=/|$)", "", only)):
    raise errors.UserError(
        f"--only={only} matches no run, and no NAME/seed_S. The runs are"
        f" {', '.join(dict.fromkeys(job.name for job in jobs))}.")


def compared(study: config_lib.Study) -> list[str]:
  """Returns the names of all runs that pairs compare, in the order of the pairs."""
  return list(dict.fromkeys(name for pair in study.pairs for name in pair))


def in_order(study: config_lib.Study, name: str) -> list[str]:
  """Returns a run's name behind those of all runs that it reads, sources first."""
  ordered: list[str] = []

  def visit(one: str, path: tuple[str, ...]) -> None:
    if one in path:
      raise errors.UserError(f"sources go in a circle: {' -> '.join([*path, one])}.")
    if one in ordered:
      return
    for other in _runs_read(study.runs[one]):
      if other not in study.runs:
        raise errors.UserError(
            f"run {one!r}: source.run is {other!r}, which is none of"
            f" {', '.join(study.runs)}.")
      visit(other, (*path, one))
    ordered.append(one)

  visit(name, ())
  return ordered


def sources(runs: Mapping[str, config_lib.Run], name: str) -> set[str] | None:
  """Returns the runs that a run starts from or learns from, and those behind them.

  None if one of them has a source that is no run of the study, whose cost is unknown.

  Args:
    runs: All runs by name.
    name: Name of a run. It reads no sources if its plan takes every leaf from none.
  """
  read = read_by(runs[name])
  if any(not source.run for source in read):
    return None
  found = {source.run for source in read}
  for other in [*found]:
    behind = sources(runs, other)
    if behind is None:
      return None
    found |= behind
  return found


def read_by(run: config_lib.Run) -> list[config_lib.Source]:
  """Returns what a run starts from or learns from."""
  teacher = [run.distill.teacher] if run.distill is not None else []
  return [*run.all_sources().values(), *teacher]


def _check(study: config_lib.Study) -> None:
  """Checks names, pairs and sources of a study; see `jobs`."""
  names = compared(study)
  if unknown := {*names} - study.runs.keys():
    raise errors.UserError(
        f"pairs name {', '.join(sorted(unknown))}, not among the runs"
        f" {', '.join(study.runs)}.")
  used = {one for name in names for one in in_order(study, name)}
  for name, run in study.runs.items():
    in_order(study, name)  # Also of what is refused below: a circle is the cause.
    if several := sorted({*_runs_read(run)} & {*names}):
      raise errors.UserError(
          f"run {name!r}: source.run is {several[0]!r}, which a pair compares, so that"
          " there is one of each seed and learning rate. Give the study the same run"
          " under another name, in no pair, as the source.")
    if name not in used:
      raise errors.UserError(
          f"run {name!r} is in no pair, and no run of a pair starts from it. Compare it"
          f" with its control, pairs=(..., ({name!r}, CONTROL)), or leave it out.")
  # Some file systems do not tell small letters from capital ones.
  taken = dict.fromkeys(_FILES, "a file of the study")
  for name in study.runs:
    if other := taken.get(name.casefold()):
      raise errors.UserError(
          f"run {name!r} has the folder of {other}. Give it another name.")
    taken[name.casefold()] = f"run {name!r}"


def _runs_read(run: config_lib.Run) -> list[str]:
  return [source.run for source in read_by(run) if source.run]


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
