"""Foreign checkpoints under their own names: where leaves lie and how they are read.

What a reader finds in a file is not to be trusted: sizes are checked against the file
before anything is made of them, and every way to be malformed is one `UserError`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import math
import re
import struct
import tokenize
from typing import Any, IO, NoReturn, Protocol
import zipfile
import zlib

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import system
from transfer_gen import tree
from transfer_gen import untrusted
from transfer_gen.formats import finite
from transfer_gen.formats import ranges

inside, check_system = untrusted.inside, system.check
Entries = ranges.Entries
_POINTER = b"version https://git-lfs.github.com/"
_DIMS, _ELEMENTS = 32, 2**56  # More than NumPy or any file holds.
_AT_ONCE = 2**20  # Bytes; what inflates an archive makes them a second time.
_ALIGNMENT = 64  # Of buffers, so that a device on the host can take them as they are.
# What parsers of NumPy, zipfile, zlib and JSON raise on hostile bytes. AssertionError
# is not among them: it is a bug here and must not be blamed on the file.
_MALFORMED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError,
    NotImplementedError, OSError, RecursionError, RuntimeError, SyntaxError, TypeError,
    ValueError, re.error, struct.error, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error)


class Leaf(Protocol):
  """One tensor in a file; its shape and dtype are known without reading it."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Sizes."""
    ...

  @property
  def dtype(self) -> np.dtype:
    """As stored, of either byte order."""
    ...

  def read(self, entries: ranges.Entries | None = None) -> np.ndarray:
    """Returns its values, or those of some entries, in the host's byte order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent:
  """A leaf whose bytes lie in a file as they are.

  Attributes:
    path: The file.
    offset: Where its first element lies, in bytes.
    shape: Its shape.
    dtype: Its dtype as stored, in either byte order.
    strides: One for each dimension, in elements. None means C order without gaps.
  """
  path: epath.Path
  offset: int
  shape: tuple[int, ...]
  dtype: np.dtype
  strides: tuple[int, ...] | None = None

  @property
  def nbytes(self) -> int:
    """Number of bytes from the first to the last one."""
    if 0 in self.shape:
      return 0
    if self.strides is None:
      return math.prod(self.shape) * self.dtype.itemsize
    # Views of PyTorch may overlap or leave gaps, so what counts is the last element
    # that they reach.
    last = sum((n - 1) * s for n, s in zip(self.shape, self.strides))
    return (last + 1) * self.dtype.itemsize

  def read(self, entries: ranges.Entries | None = None) -> np.ndarray:
    """Reads only the bytes of this leaf, or of some of its entries."""
    order = self._order()
    with untrusted.opened(self.path) as opened_file:
      # What a file on a disk reads ahead may be more than a range of it.
      file = getattr(opened_file, "raw", opened_file)
      if entries is not None and order is not None and not ranges.is_everything(
          entries, self.shape):
        return self._part(file, entries, order)
      file.seek(self.offset)
      value = assemble(file, self)
    return part_of(value, entries)

  def _order(self) -> list[int] | None:
    """Returns its dimensions as they lie in the file, from the outermost.

    None, if elements lie in no order without gaps, as in some views of PyTorch.
    """
    if self.strides is None:
      return list(range(len(self.shape)))
    order = sorted(range(len(self.shape)), key=lambda dim: -self.strides[dim])
    step = 1
    for dim in reversed(order):
      if self.shape[dim] != 1 and self.strides[dim] != step:
        return None
      step *= self.shape[dim]
    return order

  def _part(
      self, file: IO[bytes], entries: ranges.Entries, order: Sequence[int]
  ) -> np.ndarray:
    """Reads some entries; `order` is of the dimensions in the file."""
    lying = [entries[dim] for dim in order]
    found = ranges.of(
        [self.shape[dim] for dim in order], self.dtype.itemsize, tuple(lying))
    flat = _gathered(file, self.offset, found).view(self.dtype)
    value = flat.reshape([len(mine) for mine in lying]).transpose(np.argsort(order))
    return value.astype(self.dtype.newbyteorder("="), copy=False)


class Raw:
  """A foreign checkpoint under its own names, without axes.

  Attributes:
    path: Path of the checkpoint.
    kind: Name of its format, for messages.
    leaves: Its tensors by name.
    facts: Other contents, such as a config, under the names that the format gives them.
    idle: Fields of its config that the user says change nothing, each with whether a
      map has met it. By default there are none.
    looked_at: Leaves that were read, of which `finite.warn` says once what it finds.
    specs: Shape and dtype of each leaf, with empty axes.
  """

  def __init__(
      self, path: epath.Path, kind: str, leaves: Mapping[str, Leaf],
      facts: Mapping[str, Any] | None = None):
    self.path, self.kind, self.facts = path, kind, dict(facts or {})
    self.idle: dict[str, bool] = {}
    self.looked_at: set[str] = set()
    self.leaves = dict(leaves)
    self.specs = {
        name: tree.Spec(shape=leaf.shape, dtype=leaf.dtype.newbyteorder("="), axes=(),
                        reads=()) for name, leaf in self.leaves.items()}

  @property
  def title(self) -> str:
    """Path and format, for messages."""
    return f"{self.path}: {self.kind}"

  @property
  def constants(self) -> dict[str, Any]:
    """Constants of the model beside its parameters; a file holds none."""
    return {}

  def having(self, leaves: Mapping[str, Leaf]) -> "Raw":
    """Returns the same checkpoint with other leaves, or with other names for them."""
    other = Raw(self.path, self.kind, leaves, self.facts)
    # Shared and not copied, so that whoever asked sees which fields were met.
    other.idle = self.idle
    return other

  def read(
      self, names: Sequence[str],
      entries: Mapping[str, ranges.Entries] | None = None,
  ) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) for each name in order, and reads no other leaf.

    Args:
      names: Names of the leaves.
      entries: Which entries of a leaf are read. By default all.

    Raises:
      errors.UserError: If a leaf is missing in part.
    """
    for name in names:
      mine = entries.get(name) if entries else None
      with malformed(self.path, self.kind):
        value = self.leaves[name].read(mine)
      if name not in self.looked_at:
        self.looked_at.add(name)
        finite.warn(self.path, name, value, mine)
      yield name, value


@contextlib.contextmanager
def malformed(path: epath.PathLike, kind: str) -> Iterator[None]:
  """Turns errors of the body into one `UserError` that blames the file.

  What the system says of this process, see `system`, is blamed on no file.
  """
  try:
    yield
  except errors.UserError as error:
    system.check(path, error)
    # Of the same class, by which callers may know the cause.
    raise type(error)(f"{path}: no whole {kind}: {error}") from error
  except _MALFORMED as error:
    system.check(path, error)
    raise errors.UserError(
        f"{path}: no whole {kind}: {errors.cause(error)}. Fetch or save it again."
    ) from error


def opened(open_file: Callable[[epath.Path], "Raw"], path: epath.Path) -> "Raw":
  """Opens a file, unless it is what Git leaves in place of a large one.

  Args:
    open_file: Opens a file of one format.
    path: The file.

  Raises:
    errors.UserError: If it is a pointer of Git LFS, or `open_file` raises.
  """
  with untrusted.opened(path) as file:
    if file.read(len(_POINTER)) == _POINTER:
      raise errors.UserError(
          f"{path}: it is a pointer of Git LFS and not the file itself. Fetch that with"
          " `git lfs pull`, or download it again.")
  return open_file(path)


def refuse_both(model: epath.Path, adapter: epath.Path) -> NoReturn:
  """Refuses a folder with a model and an adapter, of which either would be a guess.

  Transformers 5 loads both, and earlier versions the base that the adapter's config
  names.

  Raises:
    errors.UserError: Always.
  """
  raise errors.UserError(
      f"{model.parent}: it holds a model and an adapter, which Transformers loads onto"
      f" a model. Give {model} for the model alone, or {adapter} for the adapter, which"
      " is read onto the model of a run. For both in one, merge them with PEFT"
      " (merge_and_unload, then save_pretrained).")


def fill(file: IO[bytes], nbytes: int) -> np.ndarray:
  """Reads `nbytes` bytes into an aligned buffer, u8[nbytes].

  Raises:
    errors.UserError: If the file ends before.
  """
  buffer = _buffer(nbytes)
  _fill(file, buffer)
  return buffer


def _gathered(file: IO[bytes], offset: int, found: ranges.Ranges) -> np.ndarray:
  """Reads byte ranges behind an offset, one after the other, u8[their sum]."""
  read = ranges.bridged(found)
  ends = np.cumsum(read.sizes)
  buffer = _buffer(int(ends[-1]) if len(ends) else 0)
  for start, end, size in zip(read.starts.tolist(), ends.tolist(), read.sizes.tolist()):
    file.seek(offset + start)
    _fill(file, buffer[end - size:end])
  if len(read.starts) == len(found.starts):
    return buffer
  # Where each needed range lies in what was read.
  inside = np.searchsorted(read.starts, found.starts, side="right") - 1
  at = found.starts - read.starts[inside] + (ends - read.sizes)[inside]
  return np.concatenate([
      buffer[start:start + size]
      for start, size in zip(at.tolist(), found.sizes.tolist())])


def _buffer(nbytes: int) -> np.ndarray:
  """Returns aligned memory, u8[nbytes]."""
  buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start:start + nbytes]


def _fill(file: IO[bytes], buffer: np.ndarray) -> None:
  """Fills a buffer from the file's position."""
  # One call of `readinto` may return fewer bytes than it is asked for, also within a
  # file.
  view, done, nbytes = buffer.data, 0, len(buffer)
  while done < nbytes:
    # Every binary file has it, but the type of an open file does not say so.
    got = file.readinto(  # pyrefly: ignore[missing-attribute]
        view[done:done + _AT_ONCE])
    if not got:
      raise errors.UserError(f"it ends {nbytes - done} bytes early.")
    done += got


def assemble(file: IO[bytes], leaf: Extent) -> np.ndarray:
  """Reads a leaf at the file's position."""
  flat = fill(file, leaf.nbytes).view(leaf.dtype)
  if leaf.strides is None or not flat.size:
    value = flat.reshape(leaf.shape)
  else:
    strides = [s * leaf.dtype.itemsize for s in leaf.strides]
    # Not writeable: where strides overlap, one write would change several elements.
    value = np.lib.stride_tricks.as_strided(flat, leaf.shape, strides, writeable=False)
  return value.astype(leaf.dtype.newbyteorder("="), copy=False)


def part_of(value: np.ndarray, entries: Entries | None) -> np.ndarray:
  """Returns some entries of an array that was read whole, or all if None are named."""
  return value if entries is None else ranges.pick(value, entries)


def sizes(shape: Any) -> tuple[int, ...]:
  """Checks a shape that a file claims, and returns it as a tuple.

  Raises:
    errors.UserError: If no tensor can have it.
  """
  # `type(n) is not int`, because a bool is an int as well. Zeros count as ones in the
  # product, or they would hide absurd sizes beside them.
  if (not isinstance(shape, (list, tuple)) or len(shape) > _DIMS
      or any(type(n) is not int or n < 0 for n in shape)
      or math.prod(max(n, 1) for n in shape) > _ELEMENTS):
    raise errors.UserError(f"{str(shape)[:100]} is no shape of a tensor.")
  return tuple(shape)


def check_extents(leaves: Mapping[str, Extent], disjoint: bool = True) -> None:
  """Checks leaves of one or several files against the files' sizes.

  Args:
    leaves: By name.
    disjoint: Whether no two may share a byte.

  Raises:
    errors.UserError: If a leaf lies outside its file, or two overlap.
  """
  length = functools.cache(lambda path: path.stat().length)
  for name, leaf in leaves.items():
    if leaf.offset < 0 or leaf.offset + leaf.nbytes > length(leaf.path):
      raise errors.UserError(
          f"{name} would lie at bytes {leaf.offset} to {leaf.offset + leaf.nbytes}, and"
          f" {leaf.path.name} has {length(leaf.path)}. Fetch or save it again.")
  if not disjoint:
    return
  # If any two overlap, then some two that are neighbours in this order do.
  ordered = sorted((str(leaf.path), leaf.offset, leaf.offset + leaf.nbytes, name)
                   for name, leaf in leaves.items() if leaf.nbytes)
  for (file, _, end, first), (other, start, _, second) in zip(ordered, ordered[1:]):
    if file == other and start < end:
      raise errors.UserError(f"{first} and {second} overlap. Fetch or save it again.")


def beside(folder: epath.Path, name: Any) -> epath.Path:
  """Returns the file that a checkpoint's own listing names.

  Raises:
    errors.UserError: If the name leads out of the folder, or nothing is there.
  """
  # Names come from a download. A separator, or a drive's colon, could lead to any file
  # of the machine.
  if (not isinstance(name, str) or not name or name in (".", "..")
      or any(c in name for c in "/\\\0:")):
    raise errors.UserError(
        f"{str(name)[:100]!r} is no plain file name; a checkpoint's files lie beside"
        " its listing.")
  if not (folder / name).is_file():
    raise errors.UserError(f"its listing names {name}, which is not there. Fetch it.")
  return untrusted.inside(folder / name)


def parse_json(text: bytes) -> dict[str, Any]:
  """Parses a JSON object of finite numbers and refuses doubled keys.

  Raises:
    errors.UserError: If it is no such object.
  """
  try:
    data = untrusted.parse_json(text, finite=True)
  except errors.UserError as error:
    raise errors.UserError(f"its JSON is broken: {error}") from error
  if not isinstance(data, dict):
    raise errors.UserError(f"its JSON is a {type(data).__name__}, not an object.")
  return data


def read_json(path: epath.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    errors.UserError: If it holds anything else, or is too large.
  """
  data = untrusted.read(untrusted.inside(path), untrusted.JSON_BYTES)
  try:
    return parse_json(data)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error
