"""Data sets by name: those of this package, and others from TensorFlow Datasets (TFDS).

Data sets are kept in the folder of TFDS, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
Nothing here needs TensorFlow: array_record files are written, and array_record or
tfrecord files are read.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import socket
from typing import Any
import urllib.parse
import urllib.request

from etils import epath

from transfer_gen import errors
from transfer_gen.data import datasets

PREFIX = "tfds:"
_OURS = ("python_docs", "docstring_summary")
_CLDR = "cldr_translation/"
_FOLDER = "~/tensorflow_datasets"

# What data sets of TFDS call the split that is named "validation" here.
_SYNONYMS = {"valid": "validation", "val": "validation", "dev": "validation"}

Example = dict[str, Any]


def misfit(name: str) -> str:
  """Returns why `data.name` names no data set; empty if it may name one."""
  if name in _OURS or (name.startswith(PREFIX) and len(name) > len(PREFIX)):
    return ""
  if name.startswith(_CLDR):
    try:
      fields(name)
    except errors.UserError as error:
      return str(error).removesuffix(".")
    return ""
  return (f"data.name={name!r}: must be {', '.join(_OURS)},"
          f" {_CLDR}LANGUAGE-LANGUAGE, tfds:NAME or files")


def fields(name: str) -> tuple[str, str]:
  """Returns the columns of input and target that a data set has by default.

  Raises:
    errors.UserError: If it is named by languages that are not known.
  """
  if not name.startswith(_CLDR):
    return "", "text"
  from transfer_gen.data.datasets import cldr_phrases  # Imports Babel.
  return cldr_phrases.languages(name.removeprefix(_CLDR))


def read(name: str) -> tuple[dict[str, Iterator[Example]], str]:
  """Opens a data set, and prepares it first if that was not done before.

  Args:
    name: `python_docs`, `docstring_summary`, `cldr_translation/en-de` with any two
      languages, or `tfds:NAME`, where NAME is a name that TFDS takes:
      `NAME[/CONFIG][:VERSION]`.

  Returns:
    The examples of each of the splits "train", "validation" and "test" that the data
    set has, decoded one by one; splits called "valid", "val" or "dev" are validation.
    And the version of the data set.

  Raises:
    errors.UserError: If there is no such data set, or if it is not prepared and cannot
      be prepared here.
  """
  datasets.hush()
  folder = epath.Path(os.environ.get("TFDS_DATA_DIR") or _FOLDER).expanduser()
  builder = (
      _open_ours(name, folder) if not name.startswith(PREFIX)
      else _open(name.removeprefix(PREFIX), folder))
  names = {_SYNONYMS.get(split, split): split for split in builder.info.splits}
  if "train" not in names:
    raise errors.UserError(
        f"data.name={name!r}: it has no split `train`, only"
        f" {', '.join(names) or 'others'}. Choose another data set.")
  return {
      split: _examples(builder, names[split])
      for split in ("train", "validation", "test") if split in names
  }, str(builder.version)


def _open_ours(name: str, folder: epath.Path) -> Any:
  """Returns a builder of a data set of this package, prepared."""
  builder = _make(name, folder)
  # Without the lock first: the folder of a prepared data set may be read-only.
  if builder.is_prepared():
    return builder
  try:
    # The builder is made anew under the lock: another process may have prepared the set
    # meanwhile, and a builder only looks for its files when it is made.
    with datasets.alone(folder, name), quiet():
      builder = _make(name, folder)
      # What a killed process was preparing: TFDS gives each try a folder of its own.
      for left in epath.Path(builder.data_path).parent.glob("incomplete.*"):
        left.rmtree()
      builder.download_and_prepare()
  except OSError as error:
    raise errors.UserError(
        f"data.name={name}: the data set cannot be prepared in {folder} ({error}). Set"
        " TFDS_DATA_DIR to a folder that can be written.") from error
  return builder


def _make(name: str, folder: epath.Path) -> Any:
  """Makes a builder of a data set of this package, which looks for prepared files."""
  # Importing TFDS takes a third of a second; only runs that read such a set need it.
  given = {"data_dir": folder, "file_format": "array_record"}
  if name == "python_docs":
    from transfer_gen.data.datasets import python_docs
    return python_docs.PythonDocs(**given)
  if name == "docstring_summary":
    from transfer_gen.data.datasets import docstring_summary
    return docstring_summary.DocstringSummary(**given)
  from transfer_gen.data.datasets import cldr_translation
  return cldr_translation.CldrTranslation(
      config=cldr_translation.config(name.removeprefix(_CLDR)), **given)


def _open(name: str, folder: epath.Path) -> Any:
  """Returns a builder of another data set, prepared if that can be done here."""
  import tensorflow_datasets as tfds  # Here, since it takes long to import.
  try:
    # No `file_format` here: a set that is prepared already may have either format.
    builder = tfds.builder(name, data_dir=folder)
    if builder.is_prepared():
      return builder
    _check_reachable(builder)
    with datasets.alone(folder, name):
      builder = tfds.builder(
          name, data_dir=folder, file_format="array_record")
      builder.download_and_prepare()
    return builder
  except tfds.core.DatasetNotFoundError as error:
    raise errors.UserError(
        f"data.name={PREFIX}{name}: TFDS knows no such data set, and none is"
        f" prepared in {folder}. `tfds.list_builders()` lists those that it knows. A"
        " prepared folder NAME/VERSION can be copied there, or set TFDS_DATA_DIR to"
        " the folder that holds it.") from error
  # TFDS's messages may run over pages; their first line says what happened.
  except Exception as error:  # Builders of other authors may raise anything.
    cause = str(error).strip().partition("\n")[0][:200]
    raise errors.UserError(
        f"data.name={PREFIX}{name}: the data set is not prepared in {folder} and"
        f" cannot be prepared here ({type(error).__name__}: {cause}). On a machine with"
        " TensorFlow and a network, run"
        f" `tfds build {name} --file_format=array_record` (or"
        f" `tfds.builder({name!r}, file_format=\"array_record\")"
        ".download_and_prepare()`), copy the folder that it writes into"
        f" {folder}, or set TFDS_DATA_DIR to the folder that holds it.") from error


def _check_reachable(builder: Any) -> None:
  """Raises at once if there is no network, where TFDS would retry for minutes."""
  if urllib.request.getproxies():
    return  # A proxy may reach hosts whose names this machine cannot resolve.
  hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos or ()}
  for host in sorted(filter(None, hosts)):
    try:
      # Looking up the name is enough: without a network that fails.
      socket.getaddrinfo(host, 443)
    except OSError as error:
      raise ConnectionError(f"{host} cannot be reached: {error}") from error


def _examples(builder: Any, split: str) -> Iterator[Example]:
  """Yields the examples of a split, decoded to NumPy."""
  if builder.info.file_format.value == "array_record":
    yield from builder.as_data_source(split)
    return
  if builder.info.file_format.value != "tfrecord":
    raise errors.UserError(
        f"{builder.data_path}: the files are {builder.info.file_format.value}, which"
        " cannot be read without TensorFlow. Prepare it again with"
        " --file_format=array_record.")
  import grain  # Here, since it takes long to import.
  for path in builder.info.splits[split].filepaths:
    records = grain.experimental.TFRecordIterDataset(os.fspath(path))
    for record in records:
      yield builder.info.features.deserialize_example_np(record)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences the progress bars and standard output of TFDS while it prepares a set."""
  import tensorflow_datasets as tfds  # Here, since it takes long to import.
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
