"""TFDS data sets by name: ours, and any other that is prepared or can be.

They live in TFDS's own folder, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`. Nothing
here needs TensorFlow: we write array_record and read that or tfrecord.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import io
import os
import pathlib
import socket
from typing import Any
import urllib.parse
import urllib.request

from etils import epath

from transfer_gen import errors

PREFIX = "tfds:"
_OURS = ("python_docs", "docstring_summary")
_FOLDER = "~/tensorflow_datasets"

_SYNONYMS = {"valid": "validation", "val": "validation", "dev": "validation"}

Example = dict[str, Any]


def known(name: str) -> bool:
  """Whether `name` is one of ours or of the form `tfds:NAME`."""
  return name in _OURS or (name.startswith(PREFIX) and len(name) > len(PREFIX))


def read(name: str) -> tuple[dict[str, Iterator[Example]], str]:
  """Examples by split, decoded one by one, and the version; prepares if need be.

  Args:
    name: `python_docs`, `docstring_summary` or `tfds:NAME`, where NAME is what
      TFDS takes: `NAME[/CONFIG][:VERSION]`.

  Returns:
    {"train", "validation", "test"} as far as the set has them ("valid", "val"
    and "dev" are validation), and the set's version.

  Raises:
    errors.UserError: No such set, or it is neither prepared nor to be had.
  """
  folder = epath.Path(os.environ.get("TFDS_DATA_DIR") or _FOLDER).expanduser()
  builder = (
      _open_ours(name, folder) if name in _OURS
      else _open(name.removeprefix(PREFIX), folder))
  names = {_SYNONYMS.get(split, split): split for split in builder.info.splits}
  return {
      split: _examples(builder, names[split])
      for split in ("train", "validation", "test") if split in names
  }, str(builder.version)


def _open_ours(name: str, folder: epath.Path) -> Any:
  # pylint: disable=g-import-not-at-top
  # TFDS takes a third of a second to import: only those who read a set pay.
  if name == "python_docs":
    from transfer_gen.data.datasets import python_docs
    make = python_docs.PythonDocs
  else:
    from transfer_gen.data.datasets import docstring_summary
    make = docstring_summary.DocstringSummary
  builder = make(data_dir=folder, file_format="array_record")
  if builder.is_prepared():  # Perhaps in a folder that may only be read.
    return builder
  try:
    with _lock(folder, name), quiet():
      builder = make(data_dir=folder, file_format="array_record")
      builder.download_and_prepare()
  except OSError as error:
    raise errors.UserError(
        f"data.name={name}: cannot be prepared in {folder} ({error}). Set"
        " TFDS_DATA_DIR to a folder that may be written.") from error
  return builder


def _open(name: str, folder: epath.Path) -> Any:
  """A builder of someone else's set, prepared if that can be done here."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  try:
    builder = tfds.builder(name, data_dir=folder)
    if builder.is_prepared():
      return builder
    _check_reachable(builder)
    with _lock(folder, name):
      builder = tfds.builder(
          name, data_dir=folder, file_format="array_record")
      builder.download_and_prepare()
    return builder
  except tfds.core.DatasetNotFoundError as error:
    raise errors.UserError(
        f"data.name={PREFIX}{name}: TFDS knows no such data set, and none is"
        f" prepared in {folder}. `tfds.list_builders()` lists what it knows; a"
        " prepared folder NAME/VERSION may be copied there, or set TFDS_DATA_DIR to"
        " where it is.") from error
  except Exception as error:  # Whatever a foreign builder raises.
    cause = str(error).strip().partition("\n")[0][:200]
    raise errors.UserError(
        f"data.name={PREFIX}{name}: not prepared in {folder} and it cannot be"
        f" prepared here ({type(error).__name__}: {cause}). Where TensorFlow and a"
        f" network are, run `tfds build {name} --file_format=array_record` (or"
        f" `tfds.builder({name!r}, file_format=\"array_record\")"
        ".download_and_prepare()`), copy the folder that it wrote into"
        f" {folder}, or set TFDS_DATA_DIR to where it is.") from error


def _check_reachable(builder: Any) -> None:
  """Fails at once without a network, where TFDS would retry for minutes."""
  if urllib.request.getproxies():
    return  # A proxy may know hosts that this machine does not.
  hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos or ()}
  for host in sorted(filter(None, hosts)):
    try:
      socket.getaddrinfo(host, 443)
    except OSError as error:
      raise ConnectionError(f"{host} cannot be reached: {error}") from error


def _examples(builder: Any, split: str) -> Iterator[Example]:
  """Examples of a split, decoded to NumPy."""
  if builder.info.file_format.value == "array_record":
    yield from builder.as_data_source(split)
    return
  if builder.info.file_format.value != "tfrecord":
    raise errors.UserError(
        f"{builder.data_path}: prepared as {builder.info.file_format.value}, which"
        " cannot be read without TensorFlow. Prepare it again with"
        " --file_format=array_record.")
  import grain  # pylint: disable=g-import-not-at-top
  for path in builder.info.splits[split].filepaths:
    records = grain.experimental.TFRecordIterDataset(os.fspath(path))
    for record in records:
      yield builder.info.features.deserialize_example_np(record)


@contextlib.contextmanager
def _lock(folder: epath.Path, name: str) -> Iterator[None]:
  """Lets one process of this machine at a time prepare a set.

  A folder in a bucket knows no locks: there TFDS's own renaming of the finished
  folder must do.
  """
  if "://" in os.fspath(folder):
    yield
    return
  local = pathlib.Path(folder)
  local.mkdir(parents=True, exist_ok=True)
  file = local / f".{name.replace('/', '_').replace(':', '_')}.lock"
  with file.open("w") as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)  # Freed when the file closes.
    yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """While sets of ours are prepared: no bars, no paragraph on standard output."""
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
