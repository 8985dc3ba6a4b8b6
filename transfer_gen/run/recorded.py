"""The data of a run that has trained, read again and compared with its record."""

from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import sealed
from transfer_gen.data import pipeline
from transfer_gen.formats import whole
from transfer_gen.run import ownership
from transfer_gen.run import reader as reader_lib

Reader, Run, Texts = reader_lib.Reader, reader_lib.Run, reader_lib.Texts


def texts(workdir: epath.Path, run: Run, reader: Reader) -> Texts:
  """Reads the documents that a run was trained on, by split.

  Args:
    workdir: Workdir of the run.
    run: Its config.
    reader: May have read them before.

  Raises:
    errors.UserError: If the run has no data, as a converted checkpoint, or if the data
      changed since the run began.
  """
  path = workdir / ownership.DATA
  if not has_data(workdir):
    raise errors.UserError(
        f"{workdir}: this checkpoint was converted, and no data belongs to it. Give"
        " --data=FILE.")
  found, facts = reader.texts(run.data)
  record = whole.read_json(path, _Record)
  # Splits of changed files may test a run on documents that it was trained on.
  if record.fingerprint != facts["fingerprint"]:
    raise errors.UserError(
        f"{workdir}: its data changed since it was trained: {record.counted} then,"
        f" {_Record(facts).counted} now. Restore the files that its {path.name} names,"
        " or give --data=FILE.")
  return found


def tokenized(
    workdir: epath.Path, run: Run, tokenizer: Any, reader: Reader | None = None
) -> tuple[pipeline.Prepared, Texts]:
  """Returns the data of a run, tokenized, and its documents; arguments as of `texts`.

  Raises:
    errors.UserError: As `texts`.
  """
  reader = reader or Reader()
  found = texts(workdir, run, reader)  # First: it refuses before anything is tokenized.
  return reader.data(run.data, tokenizer, run.model), found


class _Record:
  """What data.json says of texts.

  Attributes:
    fingerprint: Hash of the texts.
    counted: The number of documents of each split, and the start of the fingerprint.
  """

  def __init__(self, facts: dict[str, Any]):
    """Raises a LookupError or TypeError if something is missing."""
    self.fingerprint = facts["fingerprint"]
    counts = ", ".join(
        f"{split['kept']} {name}" for name, split in facts["splits"].items())
    self.counted = f"{counts} documents ({self.fingerprint[:8]})"


def has_data(workdir: epath.PathLike) -> bool:
  """Whether data belong to a run, as they do unless it was converted.

  Raises:
    errors.UserError: If their record was lost.
  """
  return sealed.exists(epath.Path(workdir) / ownership.DATA)
