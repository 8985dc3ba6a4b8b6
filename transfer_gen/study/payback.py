"""What sources cost, and from how many targets on they pay."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer_gen.metrics import learning_curves
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.transfer import audit


def of_pair(
    comparison: Mapping[str, Any], study: jobs_lib.Study,
    read: Mapping[str, float], costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
  """Returns how the cost of a treated run's sources compares with what it saves.

  Args:
    comparison: What `comparison.compare` returned.
    study: The study.
    read: Share of each run's params that were read from its sources, by name.
    costs: `train_tokens` and, if the study has them, `accounts` of each run, by name.

  Returns:
    By unit, `tokens` or `gflops`: `source`, the cost of the sources that only the
    treated run reads; `over_control`, what the treated run with its sources costs up to
    the control's best validation, over what the control costs up to there; `pays_from`,
    the number of targets from which sharing the sources costs no more than controls,
    or None. Empty if the treated run has no such sources, a cost is unknown, or some
    seed did not reach the control's best validation.
  """
  treated, control = (
      _behind(comparison[side], study, read) for side in ("treated", "control"))
  if treated is None or control is None or treated <= control:
    return {}
  found, spent = {}, [_spent(costs[name]) for name in treated - control]
  for unit, cost in comparison["cost"].items():
    if all(unit in one for one in spent):
      source = sum(one[unit] for one in spent)
      given = source, cost["treated"], cost["control"]
      found[unit] = {
          "source": source, "over_control": learning_curves.spread(*given, 1),
          "pays_from": learning_curves.pays_from(*given)}
  return found


def read(jobs: Sequence[jobs_lib.Job]) -> dict[str, float]:
  """Returns the share of each run's params that were read from its sources, by name."""
  # Other seeds and rates of a run read the same.
  return {name: audit.coverage(audit.read(workdir)) for name, workdir in {
      job.name: job.workdir for job in jobs}.items()}


def _behind(
    name: str, study: jobs_lib.Study, read: Mapping[str, float]) -> set[str] | None:
  """The runs behind a run; none if it only takes a tokenizer or a model from them."""
  if study.runs[name].distill is None and not read[name]:
    return set()
  return jobs_lib.sources(study.runs, name)


def _spent(cost: Mapping[str, Any]) -> dict[str, float]:
  """The cost of a training by unit, as far as it is known."""
  accounts = cost.get("accounts", {})
  return {"tokens": cost["train_tokens"], **({
      "gflops": accounts["gflops"] + accounts["search_gflops"]} if accounts else {})}
