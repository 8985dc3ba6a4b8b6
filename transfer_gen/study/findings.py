"""What a study finds out: comparisons, a summary, and what its sources cost."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transfer_gen.study import comparison
from transfer_gen.study import effective
from transfer_gen.study import foretold
from transfer_gen.study import jobs as jobs_lib
from transfer_gen.study import payback

# Scores are arrays, and are stored in each run's scores_test.json. Validations are in
# its metrics, and what was transferred in each pair.
_KEPT_ELSEWHERE = ("scores", "validations", "measured", "transfer")


def of_study(
    study: jobs_lib.Study, jobs: Sequence[jobs_lib.Job],
    results: Mapping[str, Sequence[dict[str, Any]]],
    sources: Mapping[str, dict[str, Any]], longer: Collection[str] = (),
) -> dict[str, Any]:
  """Returns what a study found.

  Args:
    study: The study, with the pairs that have results.
    jobs: Its trainings that have ended.
    results: What `outcome.test` returned for each seed of the compared runs, by name.
    sources: What `logged.cost` returned for each run that is only a source, by name,
      and its accounts if the study has them.
    longer: Controls with more steps than the runs that they are compared with.

  Returns:
    `comparisons`: for each pair what `comparison.compare` returns, its `alarm`,
    `effective_data`, `payback`, `transfer` (see `transfer_measures`; None if it was not
    measured) and `longer_control`, whether it is in `longer`; `foretold`, see
    `foretold.correlate`; `summary`, the numbers of the first pair; `sources`; `runs`:
    the results that are stored.
  """
  comparisons = [comparison.compare(pair, results) for pair in study.pairs]
  comparison.raise_alarms(comparisons, longer)
  read = payback.read(jobs)
  costs = {**sources, **{name: runs[0] for name, runs in results.items()}}
  for pair, one in zip(study.pairs, comparisons):
    one["effective_data"] = effective.of_pair(pair, study, results)
    one["payback"] = payback.of_pair(one, study, read, costs)
    one["transfer"] = results[pair[0]][0].get("transfer")
    one["longer_control"] = pair[1] in longer
  first = comparisons[0]
  summary = {
      **comparison.summary(results, first),
      "effective_data": {key: first["effective_data"].get(key) for key in (
          "amount", "low", "high", "bound")} if first["effective_data"] else None,
      "pays_from": {unit: one["pays_from"] for unit, one in first["payback"].items()},
      "alarms": [one["treated"] for one in comparisons if one["alarm"]["raised"]]}
  return {"summary": summary, "sources": dict(sources), "comparisons": comparisons,
          "foretold": foretold.correlate(comparisons),
          "runs": {name: [{key: value for key, value in run.items()
                           if key not in _KEPT_ELSEWHERE} for run in runs]
                   for name, runs in results.items()}}
