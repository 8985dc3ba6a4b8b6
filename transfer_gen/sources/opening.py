"""Opens whatever lies at a path as a source."""

from collections.abc import Callable, Sequence

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import detect
from transfer_gen.sources import new_map
from transfer_gen.sources import of_raw
from transfer_gen.sources import own
from transfer_gen.sources import word_vectors

NONE, REFUSE, REPAIR = of_raw.NONE, of_raw.REFUSE, of_raw.REPAIR


# What lies at a path decides how it is opened, and not an argument: workdirs, foreign
# checkpoints and word vectors are all given as `config.Source.path`. Adapters need the
# model that they stand beside, which their own folder does not hold.
def open(
    path: epath.PathLike, step: int = -1, *, map_name: str = "",
    vocabulary: str = of_raw.REFUSE, tokenizer: str = "",
    unused: Sequence[str] = (), idle_fields: Sequence[str] = (),
    model: own.Model | None = None, base: own.Source | None = None,
) -> own.Source:
  """Opens one checkpoint under our names; reads no array.

  The arguments, what is returned and what is raised are those of `pair.open`.
  """
  path = epath.Path(path)
  opener = _opener_of(path)
  if opener is not None:
    _check_no_step(path, step)
    return of_raw.view(
        opener(), map_name, vocabulary, tokenizer, unused, idle_fields, model, base)
  _check_of_others(path, map_name, vocabulary, tokenizer, (*unused, *idle_fields))
  if word_vectors.recognizes(path):
    _check_no_step(path, step)
    return word_vectors.WordVectors(path)
  # A missing path falls through to `open_own`, which reports that there is no such file
  # or folder.
  if path.is_file():
    raise errors.UserError(
        f"{path}: not a checkpoint by its name. Supported are files that end in"
        f" {', '.join((*detect.SUFFIXES, *word_vectors.SUFFIXES))} or .index.json,"
        " and folders.")
  return own.open_own(path, step)


def _check_no_step(path: epath.Path, step: int) -> None:
  if step >= 0:
    raise errors.UserError(
        f"{path}: step {step} was asked for, and only checkpoints of runs have steps.")


# An argument that would be ignored is an error: somebody who gives a map believes that
# it is used.
def _check_of_others(
    path: epath.Path, map_name: str, vocabulary: str, tokenizer: str,
    left_out: Sequence[str]) -> None:
  """Refuses arguments for checkpoints of other frameworks, where there is none."""
  vectors = word_vectors.recognizes(path)
  if map_name:
    kind = "word vectors need" if vectors else "a checkpoint of ours needs"
    raise errors.UserError(f"{path}: {kind} no map, and {map_name!r} is given.")
  if tokenizer:
    kind = "word vectors hold their own" if vectors else (
        "a checkpoint of ours takes that of its workdir")
    raise errors.UserError(
        f"{path}: {kind}, and source.tokenizer is {tokenizer!r}. Leave it empty; if the"
        " checkpoint was converted without one, convert it again with --tokenizer.")
  if vocabulary != of_raw.REFUSE:
    raise errors.UserError(
        f"{path}: source.vocabulary (--vocabulary) is {vocabulary!r}, which is for"
        " checkpoints of other frameworks, and this is none. Leave it out.")
  if left_out:
    raise errors.UserError(
        f"{path}: unused and idle_fields (--unused, --idle_field) are for checkpoints"
        " of other frameworks, and this is none. Remove them; what a transfer does not"
        " need is listed in its plan's unused_source.")


def leaves(
    path: epath.PathLike, step: int = -1
) -> tuple[str, own.Specs]:
  """Lists a checkpoint's leaves under its own names; reads no array.

  Args:
    path: As of `open`.
    step: As of `open`.

  Returns:
    A line that describes the checkpoint, and the spec of each leaf.

  Raises:
    errors.UserError: As `open`.
  """
  opener = _opener_of(epath.Path(path))
  # A step goes through `open`, so that one given for a checkpoint of another framework
  # is refused there. Without one, such a checkpoint is listed under its own names, for
  # which no map is needed.
  found = open(path, step) if opener is None or step >= 0 else opener()
  return found.title, found.specs


def write_map(
    path: epath.PathLike, output: epath.PathLike, map_name: str = "",
    unused: Sequence[str] = (), idle_fields: Sequence[str] = (),
) -> tuple[str, ...]:
  """Writes the map of a checkpoint as a file to edit, see `new_map.write`.

  Args:
    path: A checkpoint of another framework.
    output: The file.
    map_name: As of `open`; likewise the others.
    unused: See there.
    idle_fields: See there.

  Returns:
    Sentences on what was written, and on what does not fit yet.

  Raises:
    errors.UserError: If nothing is there that a map reads, or the file is refused.
  """
  opener = _opener_of(epath.Path(path))
  if opener is None:
    raise errors.UserError(
        f"{path}: no checkpoint of another framework, and only those have maps.")
  return new_map.write(opener(), output, map_name, unused, idle_fields)


def is_foreign(path: epath.PathLike) -> bool:
  """Whether a path holds a checkpoint of another framework.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from transfer_gen import sources
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.savez(folder / "model.npz", bias=np.zeros(8))
    >>> sources.is_foreign(folder / "model.npz")
    True
    >>> (folder / "run" / "checkpoints").mkdir(parents=True)
    >>> sources.is_foreign(folder / "run")
    False
  """
  return _opener_of(epath.Path(path)) is not None


# Suffixes of word vectors and folders with checkpoints of ours are excluded first, so
# that `detect` sees only what other frameworks wrote.
def _opener_of(path: epath.Path) -> Callable[[], detect.Raw] | None:
  """Opens a checkpoint of another framework; None if it is none."""
  if word_vectors.recognizes(path) or own.is_run(path):
    return None
  return detect.opener_of(path)
