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

from collections.abc import Mapping
import dataclasses
import json
import math
import shlex
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.formats import whole
from transfer_gen.run import assemble
from transfer_gen.run import checks
from transfer_gen.run import initial
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import loop
from transfer_gen.run import strategies
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import cost as cost_lib
from transfer_gen.study import search_page
from transfer_gen.train import objectives
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import groups as groups_lib

FOLDER = "auto"  # In a workdir: the candidates, and what was decided.
DECISION, LOSSES = "decision.json", "losses.json"
_BATCHES = 8  # For the gradients.
_PERCENT = (20, 30, 50)  # Of the budget, by round.
COMMON = config_lib.Strategy(name="fine_tune")  # What all start as.


def train(
    run: config_lib.Run, workdir: epath.PathLike, min_coverage: float = 0.0,
    reader: inputs_lib.Reader | None = None,
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
  workdir, reader = epath.Path(workdir), reader or inputs_lib.Reader()
  if run.strategy.name == strategies.AUTO:
    if not (workdir / FOLDER / DECISION).exists():
      if (workdir / codec.CONFIG).exists():
        raise errors.UserError(
            f"{workdir} belongs to a run that did not begin with a search. Take another"
            " --workdir, or the strategy that it began with.")
      _search(run, workdir, min_coverage, reader)
    run = decided(run, workdir)
    _take_over(workdir)
  return loop.train(
      run, workdir, min_coverage, inputs=reader.read(run, workdir))


def check(run: config_lib.Run) -> None:
  """`named.check`, and whether a search can begin.

  Raises:
    errors.UserError: If it cannot.
  """
  checks.check(run)
  if run.strategy.name == strategies.AUTO:
    if run.features is not None:
      raise errors.UserError(
          "strategy.name=auto tries strategies in which all learns, and features need a"
          " frozen beginning. Set features=None, or name a strategy.")
    names = [group.name for group in groups_lib.by_layer(run.model)]
    _rounds(run, candidates(dict.fromkeys(names, 0.0)))


def decided(run: config_lib.Run, workdir: epath.PathLike) -> config_lib.Run:
  """The run with the strategy that a search found, or that all candidates start as.

  A run whose strategy is not `auto` stays as it is.

  Raises:
    errors.UserError: If a search is to come that cannot begin.
  """
  if run.strategy.name != strategies.AUTO:
    return run
  path = epath.Path(workdir) / FOLDER / DECISION
  strategy = COMMON
  if not path.exists():
    check(run)
  else:
    fields = _read(path)["strategy"]
    strategy = config_lib.Strategy(**fields | {"learn": tuple(fields["learn"])})
  return dataclasses.replace(run, strategy=strategy)


def searched(workdir: epath.PathLike) -> float:
  """FLOPs of all that a search tried and dropped; 0 where there was none."""
  path = epath.Path(workdir) / FOLDER / DECISION
  facts = _read(path)
  return sum(flops for name, flops in facts.get("flops", {}).items()
             if name != facts["winner"])


def candidates(
    gradients: Mapping[str, float]) -> dict[str, list[config_lib.Strategy]]:
  """What is tried, by family: all alike, slower below, and parts alone.

  Args:
    gradients: Relative norm of the gradient of each group of `groups.by_layer`, from
      the top to the bottom.
  """
  make = config_lib.Strategy
  half = len(gradients) // 2
  steepest = sorted(gradients, key=gradients.__getitem__, reverse=True)
  steepest = [name for name in gradients if name in steepest[:max(1, half)]]
  return {
      "all": [make(name="fine_tune"), make(name="fine_tune", lr_mult=0.3)],
      "by_layer": [make(name="discriminative"),
                   make(name="discriminative", lr_mult=2.0)],
      "part": [make(name="surgical", learn=tuple(steepest)),
               make(name="fine_tune", frozen=half),
               make(name="feature_extraction", lr_mult=3.0), make(name="lora")]}


def rungs(budget: int, counts: tuple[int, int, int]) -> list[tuple[int, int]]:
  """The three rounds: (how many train, to which step).

  Args:
    budget: Steps over all; 20%, 30% and 50% of it go into the rounds.
    counts: Candidates of each round.

  Raises:
    errors.UserError: If the first round would have no step.
  """
  result, step = [], 0
  for count, percent in zip(counts, _PERCENT):
    step += budget * percent // 100 // count
    result.append((count, step))
  if result[0][1] < 1:
    least = -(-counts[0] * 100 // _PERCENT[0])
    raise errors.UserError(
        f"strategy.budget is {budget}, must be at least {least} steps: auto tries"
        f" {counts[0]} strategies, and a fifth of it is for the first round.")
  return result


def _budget(run):
  return run.strategy.budget or run.train.steps


def _rounds(run, families):
  tried = {_name(strategy) for some in families.values() for strategy in some}
  return rungs(_budget(run), (len(tried), len(families), 2))


def _search(
    run: config_lib.Run, workdir: epath.Path, min_coverage: float,
    reader: inputs_lib.Reader) -> None:
  """Decides, and writes what was decided and why."""
  check(run)
  folder = workdir / FOLDER
  budget = _budget(run)
  inputs = reader.read(dataclasses.replace(run, strategy=COMMON), folder / "none")
  common = assemble.assemble(inputs)
  audit_lib.check_coverage(audit_lib.summarize(
      common.plan, common.rows, common.source_specs), min_coverage)
  gradients = relative_gradients(common)
  families = candidates(gradients)
  tried = {_name(strategy): strategy for some in families.values() for strategy in some}
  begun = _read(folder / LOSSES)  # By a search that was cut.
  if begun.get("budget", budget) != budget:
    raise errors.UserError(
        f"{folder}: a search with strategy.budget={begun['budget']} began there, and"
        f" now it is {budget}. Take another --workdir, or that budget.")
  losses = begun.get("losses", {})
  last = lambda name: _last(losses[name])
  alive = list(tried)
  for number, (count, stop) in enumerate(_rounds(run, families)):
    stop = min(stop, run.train.steps)
    if number == 1:
      alive = [min(map(_name, some), key=last) for some in families.values()]
    elif number == 2:
      alive = sorted(alive, key=last)[:count]
    for name in alive:
      if str(stop) not in losses.get(name, {}):
        print(f"auto: {name} to step {stop}", flush=True)
        losses.setdefault(name, {})[str(stop)] = _loss(
            inputs, dataclasses.replace(run, strategy=tried[name]), folder / name, stop)
        whole.write_json(folder / LOSSES, {"budget": budget, "losses": losses})
  best = min(alive, key=last)
  _decide(workdir, {
      "strategy": dataclasses.asdict(tried[best]), "winner": best,
      "overrides": overrides(tried[best]), "budget": budget,
      "relative_gradients": gradients, "losses": losses,
      "flops": {name: _flops(inputs, strategy, losses[name])
                for name, strategy in tried.items()}})


def _loss(
    inputs: inputs_lib.Inputs, run: config_lib.Run, workdir: epath.Path, stop: int
) -> float:
  """Validation loss after `stop` steps; infinite if training diverged."""
  try:
    done = loop.train(run, workdir, stop=stop, inputs=inputs)["step"]
  except loop.Diverged:
    return math.inf
  scores = trained_lib.open(workdir, done).score(inputs.data, "validation")
  loss = scores.metrics()["loss"]
  return loss if math.isfinite(loss) else math.inf


def _flops(
    inputs: inputs_lib.Inputs, strategy: config_lib.Strategy,
    losses: Mapping[str, float]) -> float:
  run = dataclasses.replace(inputs.run, strategy=strategy)
  return cost_lib.of_run(
      assemble.assemble(inputs.with_run(run)), max(map(int, losses)))


def _last(losses: Mapping[str, float]) -> float:
  """The loss after most steps."""
  return losses[max(losses, key=int)]


def _read(path: epath.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def relative_gradients(assembled: assemble.Assembled) -> dict[str, float]:
  """||gradient|| / ||params|| of each group of `groups.by_layer` at the start.

  The gradient is that of a few training batches' mean loss, without dropout.
  """
  key, params = initial.keys(assembled.run.seed)[0], initial.params(assembled)
  nll_fn = objectives.next_token(assembled.model, False)

  @jax.jit
  def gradient(params, batch):
    loss = lambda p: (nll_fn(p, batch, key) * batch["weights"]).sum()
    return jax.grad(loss)(params)

  batches = assembled.data.train_batches(assembled.run.train.batch_size, assembled.run.seed)
  total, count = None, 0.0
  for _ in range(_BATCHES):
    batch = next(batches)
    found = gradient(params, batch)
    total = found if total is None else jax.tree.map(np.add, total, found)
    count += batch["weights"].sum()
  groups = groups_lib.by_layer(assembled.run.model)
  names = [group.params for group in groups]
  squares = np.zeros((2, len(groups)))
  for name, value in params.items():
    index, _ = tree.match(names, name)
    squares[0, index] += np.square(np.asarray(total[name], np.float64) / count).sum()
    squares[1, index] += np.square(np.asarray(value, np.float64)).sum()
  ratios = np.sqrt(squares[0] / np.maximum(squares[1], 1e-30))
  return {group.name: float(ratio) for group, ratio in zip(groups, ratios)}


def _decide(workdir: epath.Path, facts: Mapping[str, Any]) -> None:
  """Writes the evidence; the decision last."""
  folder = workdir / FOLDER
  told = search_page.text(facts)
  whole.write_text(folder / "report.txt", told)
  whole.write_text(folder / "report.html", search_page.page(facts))
  print(told, flush=True)
  for name in facts["losses"].keys() - {facts["winner"]}:
    (folder / name / "checkpoints").rmtree(missing_ok=True)  # Their metrics stay.
  whole.write_json(folder / DECISION, facts)


def _take_over(workdir: epath.Path) -> None:
  """Makes the workdir that of the winner; does nothing where that was done."""
  winner = _read(workdir / FOLDER / DECISION)["winner"]
  folder = workdir / FOLDER / winner
  if not folder.exists():
    return
  for path in sorted(folder.iterdir()):
    if (workdir / path.name).is_dir():
      (workdir / path.name).rmtree()
    path.replace(workdir / path.name)
  folder.rmdir()


def overrides(strategy: config_lib.Strategy) -> list[str]:
  """Flags that make a run of this strategy, for a shell."""
  return [shlex.quote(f"--config.strategy.{field.name}={getattr(strategy, field.name)}")
          for field in dataclasses.fields(strategy)
          if getattr(strategy, field.name) != field.default]


def _name(strategy: config_lib.Strategy) -> str:
  """A folder's name that says what it holds."""
  parts = [strategy.name]
  parts += [f"frozen_{strategy.frozen}"] if strategy.frozen else []
  parts += [f"lr_x{strategy.lr_mult:g}"] if strategy.lr_mult else []
  return "_".join(parts)
