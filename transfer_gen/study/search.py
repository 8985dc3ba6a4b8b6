"""The search for a strategy: candidates train a little, the better ones continue."""

from collections.abc import Mapping
import dataclasses
import time

from etils import epath

from transfer_gen.run import assemble
from transfer_gen.run import plan_files
from transfer_gen.run import reader as reader_lib
from transfer_gen.study import candidates as candidates_lib
from transfer_gen.study import decision
from transfer_gen.study import gradients as gradients_lib
from transfer_gen.study import search_cost
from transfer_gen.study import trial


def search(
    run: reader_lib.Run, workdir: epath.Path, min_coverage: float,
    reader: reader_lib.Reader, events: epath.Path | None = None) -> None:
  """Searches, and writes the decision with its evidence; see `auto.train`."""
  folder, started = workdir / decision.FOLDER, time.monotonic()
  budget = candidates_lib.budget(run)
  # No candidate is called `none`, so neither a tokenizer nor choices that a candidate
  # left in its folder are taken over.
  inputs = reader.read(
      dataclasses.replace(run, strategy=candidates_lib.COMMON), folder / "none")
  common = assemble.assemble(inputs)
  plan_files.check_coverage(common, min_coverage)
  # Computed anew when a search goes on: the seed and the data fix it, so the candidates
  # are the same ones.
  gradients = gradients_lib.relative_gradients(common)
  families = candidates_lib.candidates(gradients)
  tried = {candidates_lib.name(strategy): strategy
           for some in families.values() for strategy in some}
  begun = decision.begun(workdir, budget)  # By a search that was cut.
  losses, spent = begun.get("losses", {}), begun.get("seconds", 0.0)
  seconds = lambda: spent + time.monotonic() - started
  last = lambda name: _last(losses[name])
  alive = list(tried)
  for number, (count, stop) in enumerate(candidates_lib.rounds(run, families)):
    # A budget may be larger than the run: no candidate trains beyond its end.
    stop = min(stop, run.train.steps)
    # The best of each family, and not the best of all: what learns fast looks best
    # early, and one family alone would fill the next round.
    if number == 1:
      alive = [min(map(candidates_lib.name, some), key=last)
               for some in families.values()]
    elif number == 2:
      alive = sorted(alive, key=last)[:count]
    for name in alive:
      # JSON has only strings as keys, so steps are strings throughout.
      if str(stop) not in losses.get(name, {}):
        print(f"auto: {name} to step {stop}", flush=True)
        losses.setdefault(name, {})[str(stop)] = trial.loss(
            inputs, dataclasses.replace(run, strategy=tried[name]), folder / name, stop,
            events and events / decision.FOLDER / name)
        decision.write_losses(workdir, {
            "budget": budget, "losses": losses, "seconds": seconds()})
  best = min(alive, key=last)
  decision.write(workdir, {
      "strategy": dataclasses.asdict(tried[best]), "winner": best,
      "overrides": candidates_lib.overrides(tried[best]), "budget": budget,
      "relative_gradients": gradients, "losses": losses,
      "flops": {name: search_cost.flops(inputs, strategy, losses[name])
                for name, strategy in tried.items()},
      "flops_beside": search_cost.flops_beside(common, sum(map(len, losses.values()))),
      # The steps of the best one are those of the run, which counts them itself.
      "seconds": seconds() - search_cost.train_seconds(folder / best)})


def _last(losses: Mapping[str, float]) -> float:
  """Returns the loss after the most steps."""
  return losses[max(losses, key=int)]
