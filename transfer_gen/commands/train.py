"""`transfer-gen train`: trains a run, or continues one that was stopped."""

import json

from transfer_gen.commands import flags
from transfer_gen.study import auto


def run(values: flags.Values) -> None:
  """Trains; the last line printed is the result as JSON."""
  print(json.dumps(auto.train(values.config, values.workdir, values.min_coverage)))
