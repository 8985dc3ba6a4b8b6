"""Drawings in files: arrays of NumPy, and lines of JSON in the form of QuickDraw.

Axes: N points of all drawings, n drawings.
"""

from collections.abc import Iterator

import numpy as np

from transfer_gen import errors
from transfer_gen.data import notation
from transfer_gen.data.readers import blobs
from transfer_gen.data.readers import json_documents
from transfer_gen.formats import numpy_files

Example = blobs.Example
# Names of a split in files, by ours.
_SPLITS = {"train": ("train",), "validation": ("validation", "valid"),
           "test": ("test",)}
_POINTS, _STARTS = "strokes", "offsets"
# Each point takes about this many bytes as text, a Python string.
_TEXT = 16
_CONVERT = (
    " If you trust the file, convert it once:\n"
    "  import numpy as np\n"
    "  old, new = np.load('OLD.npz', allow_pickle=True, encoding='latin1'), {}\n"
    "  for name in old:\n"
    "    new[name + '_strokes'] = np.concatenate(list(old[name]))\n"
    "    new[name + '_offsets'] = np.cumsum([0, *map(len, old[name])])\n"
    "  np.savez_compressed('NEW.npz', **new)")


def read_npz(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the drawings of one split.

  A file holds `strokes` [N, 3] or [N, 5], all points one drawing after another, and
  `offsets` i64[n + 1], where each begins, with N at the end; or the same for each
  split, `train_strokes`, `train_offsets`, `valid_strokes` and so on; or arrays
  [n, T, 3] or [n, T, 5] called `train`, `valid` and `test`.

  Args:
    blob: The file.
    options: `split` says which split is read of a file that holds several.

  Raises:
    errors.UserError: If it holds something else; names the drawing.
  """
  arrays = _opened(blob)
  prefix = _prefix(blob, arrays, options.split)
  shapes = {name: leaf.shape for name, leaf in arrays.leaves.items()}
  if prefix in shapes:
    [(_, found)] = arrays.read([prefix])
    drawings = iter(found)
    if found.ndim != 3:
      raise errors.UserError(
          f"{blob}: {prefix} is an array of shape {found.shape}, and drawings of one"
          " length are (n, T, 3) or (n, T, 5).")
  else:
    names = [prefix + name for name in (_POINTS, _STARTS)]
    (_, found), (_, starts) = arrays.read(names)
    _check_starts(blob, names, found, starts)
    drawings = (found[a:b] for a, b in zip(starts, starts[1:]))
  title = prefix.rstrip("_") or _POINTS
  for i, points in enumerate(drawings):
    where = f"{blob}:{title}[{i}]"
    yield where, {"text": notation.text(notation.checked(points, where))}


def splits(blob: blobs.Blob) -> tuple[str, ...]:
  """Returns the splits that a file holds by name; () if it is one split itself."""
  names = _opened(blob).leaves
  return tuple(split for split, spelled in _SPLITS.items() if any(
      name in names or f"{name}_{_POINTS}" in names for name in spelled))


def read_lines(blob: blobs.Blob, options: blobs.Options) -> Iterator[Example]:
  """Yields the objects on the lines of a file; those of QuickDraw get a `text`.

  Their `drawing` is a list of lines, each [[x, ...], [y, ...]].
  """
  for where, columns in json_documents.read_lines(blob, options):
    if isinstance(columns.get("drawing"), list) and "text" not in columns:
      points = notation.of_lines(columns["drawing"], where)
      columns = {"word": columns.get("word", ""), "text": notation.text(points)}
    yield where, columns


def _opened(blob: blobs.Blob):
  """Returns the arrays of a file, of which only the headers were read."""
  if blob.member or not str(blob).lower().endswith(".npz"):
    raise errors.UserError(
        f"{blob}: a .npz is read as a file of its own. Unpack it, and give its path.")
  try:
    arrays = numpy_files.open_npz(blob.path)
  except numpy_files.Objects as error:
    raise errors.UserError(f"{error}{_CONVERT}") from error
  held = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape, dtype=object))
             for leaf in arrays.leaves.values())
  blobs.check_ratio(blob, blob.path.stat().length, held)
  blobs.check_memory(blob, _TEXT * held)
  return arrays


def _prefix(blob, arrays, split: str) -> str:
  """Returns how the names of a split's arrays begin."""
  names = arrays.leaves
  if _POINTS in names and _STARTS in names:
    return ""
  # Prompts are no split; of a file with splits they are what no run has learned.
  spellings = _SPLITS.get(split, _SPLITS["test"])
  for spelled in spellings:
    if spelled in names:
      return spelled
    if {f"{spelled}_{_POINTS}", f"{spelled}_{_STARTS}"} <= names.keys():
      return f"{spelled}_"
  raise errors.UserError(
      f"{blob}: it holds {', '.join(sorted(names)[:8]) or 'nothing'}, and drawings for"
      f" data.{split} are {spellings[-1]}_{_POINTS} [N, 3] with"
      f" {spellings[-1]}_{_STARTS} [n + 1], or {_POINTS} with {_STARTS}.")


def _check_starts(blob, names, points, starts) -> None:
  """Checks that drawings lie one after another, and that none is empty."""
  if points.ndim != 2 or points.shape[1] not in (3, 5):
    raise errors.UserError(
        f"{blob}: {names[0]} is an array of shape {points.shape}, must be (N, 3) or"
        " (N, 5).")
  if starts.ndim != 1 or not len(starts) or starts.dtype.kind not in "iu" or (
      starts[0] != 0 or starts[-1] != len(points) or (np.diff(starts) < 0).any()):
    raise errors.UserError(
        f"{blob}: {names[1]} must be whole numbers that rise from 0 to {len(points)},"
        " the number of points: where each drawing begins, and the end.")
  if (empty := np.flatnonzero(np.diff(starts) == 0)).size:
    raise errors.UserError(
        f"{blob}: {len(empty)} drawings of {names[0]} have no points, the first is"
        f" number {empty[0]} (counted from 0). Remove them.")
