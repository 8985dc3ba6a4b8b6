"""`transfer-gen compare`: a report of runs that have trained, without a study."""

import json
import shlex

from transfer_gen.commands import flags
from transfer_gen.study import compare_runs
from transfer_gen.study import report


def run(values: flags.Values) -> None:
  """Compares runs; the last line printed is the summary as JSON."""
  facts = compare_runs.run(
      values.arguments, values.output, values.samples,
      shlex.join(["transfer-gen", "compare", *values.words]))
  print(report.study_text(facts))
  print(f"report: {values.output}/{compare_runs.PAGE}")
  print(json.dumps(facts["summary"]))
