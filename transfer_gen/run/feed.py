"""The batches of a run: with stored features, and with what a teacher computes."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import jax

from transfer_gen.data import pipeline
from transfer_gen.distill import teacher
from transfer_gen.run import assemble
from transfer_gen.train import stored_features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
  """Where the batches of a run come from.

  Attributes:
    data: Data to validate on, with stored features if there are any.
    batches: Batches to train on; their order does not depend on features.
    put: Moves a batch from the host to the devices, and adds what the teacher computes
      of it if there is a teacher.
  """
  data: pipeline.Prepared
  batches: pipeline.Batches
  put: Callable[[pipeline.Batch], Any]


def prepare(
    assembled: assemble.Assembled, params: Mapping[str, jax.Array],
    position: dict[str, Any] | None,
    put: Callable[[pipeline.Batch], Any], workdir: epath.PathLike,
    rows: pipeline.Pick = pipeline.all_rows) -> Feed:
  """Builds the feed of a run.

  It stores features that are asked for and missing, and reads the teacher's params.

  Args:
    assembled: The run.
    params: Params of the model when training starts or resumes.
    position: Position of the batches, as a checkpoint holds it. If None, they start at
      the beginning.
    put: Moves a batch from the host to the devices.
    workdir: Workdir of the run.
    rows: Which rows of a batch `put` takes, as of `parallel.Runner`.

  Raises:
    errors.UserError: If stored features are not what the model computes.
  """
  run = assembled.run
  data = stored_features.attach(
      run, assembled.model, assembled.beginning, assembled.data, params, workdir)
  batches = data.train_batches(run.train.rows, run.seed, rows)
  if position is not None:
    batches.set_state(position)
  return Feed(data=data, batches=batches,
              put=teacher.feed(assembled.teacher, run.parallel, put))
