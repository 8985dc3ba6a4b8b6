"""One candidate of a search: an ordinary run that is stopped early."""

import math

from etils import epath

from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import ledger
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib


def loss(
    inputs: inputs_lib.Inputs, run: inputs_lib.Run, workdir: epath.Path, stop: int,
    events: epath.Path | None = None,
) -> float:
  """Trains a candidate to `stop`; returns its validation loss, inf if it diverged."""
  found = scores(inputs, run, workdir, stop, events)
  return math.inf if found is None else found.metrics()["loss"]


def scores(
    inputs: inputs_lib.Inputs, run: inputs_lib.Run, workdir: epath.Path, stop: int,
    events: epath.Path | None = None,
) -> trained_lib.evaluate.Scores | None:
  """Trains a candidate to `stop`; returns its validation, None if it diverged."""
  try:
    done = loop.train(run, workdir, stop=stop, inputs=inputs, events=events)["step"]
  # A candidate that diverges loses, and the search goes on without it.
  except ledger.Diverged:
    return None
  # Scored at the step where it stopped, and not at its best one: candidates must be
  # compared after the same number of steps.
  found = trained_lib.open(workdir, done).score(inputs.data, "validation")
  # `min` returns a NaN that stands first, so such a candidate could win.
  return found if math.isfinite(found.metrics()["loss"]) else None
