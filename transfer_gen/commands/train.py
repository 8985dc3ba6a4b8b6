"""`transfer-gen train`: trains a run, or continues one that was stopped."""

import json

from transfer_gen import processes
from transfer_gen.commands import evaluate
from transfer_gen.commands import flags
from transfer_gen.run import agreement
from transfer_gen.study import auto


def run(values: flags.Values) -> None:
  """Trains, and evaluates if asked to; the last line printed is JSON."""
  with processes.joined(values.coordinator, values.processes, values.process):
    agreement.check(values.config, values.min_coverage, values.evaluate)
    result = auto.train(values.config, values.workdir, values.min_coverage,
                        profile=values.profile)
    print(json.dumps(result), flush=True)
  if values.evaluate:
    evaluate.run(flags.parse("evaluate", [f"--workdir={values.workdir}"]))
