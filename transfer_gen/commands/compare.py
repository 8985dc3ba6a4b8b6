"""`transfer-gen compare`: a report of runs that have trained, or of several studies."""

import json
import shlex

from transfer_gen.commands import flags
from transfer_gen.study import compare_runs
from transfer_gen.study import compare_studies
from transfer_gen.study import report


def run(values: flags.Values) -> None:
  """Compares runs or studies; the last line printed is the summary as JSON."""
  words, output = values.arguments, values.output
  command = shlex.join(["transfer-gen", "compare", *values.words])
  if compare_studies.are_studies(words):
    facts = compare_studies.run(words, output, command)
    shown, summary, name = (
        compare_studies.text(facts), facts["foretold"], compare_studies.PAGE)
  else:
    facts = compare_runs.run(words, output, values.samples, command)
    shown, summary, name = (
        report.study_text(facts), facts["summary"], compare_runs.PAGE)
  print(shown)
  print(f"report: {output}/{name}")
  print(json.dumps(summary))
