"""Gives the runs of a pair equally many tokens or FLOPs, in place of equal steps."""

from collections.abc import Callable, Mapping
import math

from transfer_gen import errors
from transfer_gen.study import cost
from transfer_gen.study import pairs as pairs_lib
from transfer_gen.study import rehearsal
from transfer_gen.study import step_time

_Study, _Runs = rehearsal.jobs_lib.Study, Mapping[str, rehearsal.assemble.Assembled]
# Layers that start late may make the cost of a run depend on its steps in other ways
# than in proportion, so that steps are found by trying.
_TRIES = 8
_INTERVALS = ("log_every", "eval_every", "checkpoint_every")
_OF: Mapping[str, Callable[[rehearsal.assemble.Assembled], float]] = {
    "tokens": lambda one: step_time.tokens(one) * one.run.train.steps,
    "flops": lambda one: cost.of_run(one, one.run.train.steps)}


def steps(
    study: _Study, runs: _Runs,
    assembled: Callable[[str, int], rehearsal.assemble.Assembled]) -> dict[str, int]:
  """Returns the steps of the runs whose pairs ask for others than they have.

  A control that is treated in no pair keeps its steps, and all that pairs connect with
  it get as many as make equal what `Study.equal` names, to the nearest step. What runs
  transfer from is not counted.

  Args:
    study: The study.
    runs: Its runs, assembled, by name.
    assembled: Assembles a run, by its name, with other steps.

  Raises:
    errors.UserError: If there is no such control, if several need different amounts, or
      if FLOPs are asked of a search, whose own are not known before.
  """
  if study.equal == "steps":
    return {}
  amount = _OF[study.equal]
  treated = {one for one, _ in study.pairs}
  found: dict[str, int] = {}
  for name in rehearsal.jobs_lib.compared(study):
    if name not in treated:
      continue
    if study.equal == "flops" and rehearsal.jobs_lib.is_search(study.runs[name]):
      raise errors.UserError(
          f"run {name!r}: equal='flops' counts what a run will cost, and that of an"
          " `auto` search is not known before. Use equal='steps', or leave it out.")
    target = _target(study, runs, name, amount)
    one = runs[name]
    for _ in range(_TRIES):
      had = one.run.train.steps
      wanted = max(1, round(had * target / amount(one)))
      if wanted == had:
        break
      one = assembled(name, wanted)
    if one.run.train.steps != runs[name].run.train.steps:
      found[name] = one.run.train.steps
  return found


def with_steps(run: rehearsal.jobs_lib.Run, count: int) -> rehearsal.jobs_lib.Run:
  """Returns a run with other steps, in which intervals are scaled alike."""
  had = run.train.steps
  scaled = {name: max(1, round(run.value("train", name) * count / had))
            for name in _INTERVALS if had and run.value("train", name)}
  return run.with_values("train", steps=count, **scaled)


def describe(study: _Study, runs: _Runs, found: Mapping[str, int]) -> list[str]:
  """Returns, for people, which runs have other steps than their config says."""
  return [f"{name}: {count:,} steps in place of {runs[name].run.train.steps:,}, for as"
          f" many {'FLOPs' if study.equal == 'flops' else study.equal} as its control"
          for name, count in found.items()]


def _target(study, runs, name, amount) -> float:
  """What the controls that keep their steps have, of all that are connected."""
  treated = {one for one, _ in study.pairs}
  roots = sorted(pairs_lib.connected(study.pairs, name) - treated)
  if not roots:
    raise errors.UserError(
        f"equal={study.equal!r}: pairs compare {name!r} in a circle, so that no control"
        " keeps its steps.")
  first, *others = (amount(runs[root]) for root in roots)
  for root, other in zip(roots[1:], others):
    if not math.isclose(first, other, rel_tol=0.01):
      raise errors.UserError(
          f"equal={study.equal!r}: {name!r} is compared with {roots[0]!r} and {root!r},"
          f" which have {first:.3g} and {other:.3g} {study.equal}. Give it one control,"
          " or both the same.")
  return first
