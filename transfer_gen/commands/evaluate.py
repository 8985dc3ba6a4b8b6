"""`transfer-gen evaluate`: the loss of a trained run on a split."""

import json

from transfer_gen.commands import flags
from transfer_gen.run import records
from transfer_gen.run import trained as trained_lib


def run(values: flags.Values) -> None:
  """Evaluates and writes `scores_<split>.json`; the last line printed is JSON."""
  trained = trained_lib.open(values.workdir, values.step)
  data, _ = trained.data()
  scores = trained.score(data, values.split)
  records.write_scores(trained.workdir, values.split, trained.step, scores)
  print(f"{trained.workdir}: {values.split} split at step {trained.step}")
  # JSON alone in the last line, so that a script finds it whatever was printed before.
  print(json.dumps({"split": values.split, "step": trained.step, **scores.metrics()}))
