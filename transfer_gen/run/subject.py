"""What is evaluated: a run, and the documents that it is evaluated on."""

from collections.abc import Iterable, Sequence
import dataclasses

from etils import epath

from transfer_gen import errors
from transfer_gen.data import fields
from transfer_gen.run import own_data
from transfer_gen.run import recorded
from transfer_gen.run import trained as trained_lib

SPLITS = ("train", "validation", "test")
Document = own_data.Document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """Which documents a run is evaluated on.

  Attributes:
    paths: Files or a data set, as of `own_data.read`; if empty, the run's own data.
    split: Split of the run's own data, or of a data set.
    input_field: Column of the inputs; if empty, that of the run.
    target_field: Column of the targets; if empty, that of the run.
    limit: Largest number of documents, the first ones; 0 means all.
  """
  paths: str = ""
  split: str = "test"
  input_field: str = ""
  target_field: str = ""
  limit: int = 0

  def check(self) -> None:
    """Raises a `UserError` if the fields do not go together."""
    if self.split not in SPLITS:
      raise errors.UserError(
          f"--split is {self.split!r}, must be one of {', '.join(SPLITS)}.")
    if not self.paths and (self.input_field or self.target_field):
      raise errors.UserError(
          "--input_field and --target_field are for --data=...; a run's own data have"
          " the columns of its config.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """A run that is evaluated.

  Attributes:
    trained: The run, which reads the documents as it reads its own.
    own: The run as it was trained.
    reader: Has read its own data, if that was needed.
  """
  trained: trained_lib.Trained
  own: trained_lib.Trained
  reader: recorded.Reader

  def documents(self, texts: Texts) -> Sequence[Document]:
    """Reads the documents, and prints what was left out.

    Raises:
      errors.UserError: If there are none; if the run has no data of its own or they
        changed since.
    """
    if texts.paths:
      found, blank = own_data.read(self.trained.run, texts.paths, texts.split)
      if blank:
        print(f"{blank} blank texts are left out.")
    else:
      found = recorded.texts(
          self.own.workdir, self.own.run, self.reader)[texts.split]
    if not found:
      raise errors.UserError(f"{texts.paths or texts.split}: there is no document.")
    return found[:texts.limit or None]

  def check(self, documents: Sequence[Document]) -> None:
    """Checks that documents are of the kind that the run was trained on.

    Raises:
      errors.UserError: If it was trained on pairs and they are texts, or the other way
        around.
    """
    kinds = {True: "pairs", False: "texts without inputs"}
    pairs = fields.is_pairs(self.trained.run.data)
    if pairs != bool(documents[0].input):
      raise errors.UserError(
          f"{self.own.workdir} was trained on {kinds[pairs]}, and the documents are"
          f" {kinds[not pairs]}. Give --data=INPUTS|TARGETS or --input_field for pairs;"
          " compare runs of one kind.")

  def training(self) -> Iterable[str]:
    """Yields the texts that the run learned to write.

    Raises:
      errors.UserError: If they are not known, or changed since.
    """
    if not recorded.has_data(self.own.workdir):
      raise errors.UserError(
          f"{self.own.workdir}: novelty looks at the training text, and a converted"
          " checkpoint has none. Choose other metrics.")
    splits = recorded.texts(self.own.workdir, self.own.run, self.reader)
    return (document.target for document in splits["train"])


def open(workdir: epath.PathLike, step: int, texts: Texts) -> Subject:
  """Opens a run to evaluate it.

  Args:
    workdir: Workdir of the run.
    step: Which checkpoint. -1 means the best.
    texts: What it will be evaluated on.

  Raises:
    errors.UserError: If there is no run or no such checkpoint, or the fields of `texts`
      do not go together.
  """
  texts.check()
  own = trained_lib.open(workdir, step)
  run = own.run if not texts.paths else own_data.configure(
      own.run, texts.paths, texts.input_field, texts.target_field,
      converted=not recorded.has_data(own.workdir),
      marks=bool({"bos", "eos"} & own.tokenizer.roles.keys()))
  return Subject(trained=dataclasses.replace(own, run=run), own=own,
                 reader=recorded.Reader())
