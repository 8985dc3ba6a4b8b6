"""One training of a study, to its end or to what has ended it."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import programs
from transfer_gen.formats import whole
from transfer_gen.run import ledger
from transfer_gen.study import auto
from transfer_gen.study import jobs as jobs_lib

Job, Reader = jobs_lib.Job, auto.reader_lib.Reader
_PIECES = 8000  # Of memory, for programs of earlier trainings; about 80 trainings.
_ENDED = "trained.json"  # In the workdir of a training of a study that has ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
  """How a training has ended.

  Attributes:
    facts: What `loop.train` returned; empty if it failed.
    lines: If it failed, the message or the end of what Python prints of the error.
    diverged: Whether it failed because its loss or params were not finite.
    interrupted: Whether it failed because its process was asked to end.
    unwritable: If a file could not be written, what `errors.Unwritable` is made of.
  """
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lines: Sequence[str] = ()
  diverged: bool = False
  interrupted: bool = False
  unwritable: tuple[str, str] | None = None


def has_ended(workdir: epath.Path) -> bool:
  """Whether a training has ended in a workdir, which is that of a training."""
  return (workdir / _ENDED).exists()


def train(job: Job, reader: Reader) -> Ending:
  """Trains; what fails is returned.

  Args:
    job: The training.
    reader: Has read the data of other trainings, which are not read again.

  Raises:
    errors.Unwritable: If the disk is full: everything else would fail as well.
  """
  programs.drop(_PIECES)
  try:
    facts = auto.train(
        job.run, job.workdir, reader=reader, events=job.events)
  except errors.Unwritable:
    raise
  except Exception as error:  # pylint: disable=broad-except
    return failure(error)
  # Written last: with it, the training has ended.
  whole.write_json(job.workdir / _ENDED, facts)
  return Ending(facts=facts)


def failure(error: Exception) -> Ending:
  """Returns the ending of a training that an error has ended."""
  return Ending(lines=errors.last_lines(error),
                diverged=isinstance(error, ledger.Diverged))
