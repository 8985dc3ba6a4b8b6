"""What a step reads: batches with stored features, and with what a teacher tells."""

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
  """Where batches come from.

  Attributes:
    data: To validate on, with stored features, if there are any.
    batches: To train on; their order is that of the data without features.
    put: From the host to devices, with what the teacher tells, if there is one.
  """
  data: pipeline.Prepared
  batches: pipeline.Batches
  put: Callable[[pipeline.Batch], Any]


def of(
    assembled: assemble.Assembled, params: Mapping[str, jax.Array],
    position: dict[str, Any] | None,
    put: Callable[[pipeline.Batch], Any], workdir: epath.PathLike) -> Feed:
  """Builds the feed of a run.

  It stores features that are asked for and missing, and reads the teacher's params.

  Args:
    assembled: The run.
    params: Of the model, as training starts or goes on with them.
    position: Of the batches, as a checkpoint holds it; None: the beginning.
    put: From the host to devices.
    workdir: Of the run.

  Raises:
    errors.UserError: If stored features are not what the model computes.
  """
  run = assembled.run
  data = stored_features.attach(
      run, assembled.model, assembled.first_layer, assembled.data, params, workdir)
  batches = data.train_batches(run.train.batch_size, run.seed)
  if position is not None:
    batches.set_state(position)
  return Feed(data=data, batches=batches,
              put=teacher.feed(assembled.teacher, run.parallel, put))
